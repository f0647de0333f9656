"""What it costs to be there: an import, a start, idle connections and waiting streams.

    python benchmarks/footprint.py [--connections 1000] [--streams 1000] [--repeats 5] [--out FILE]

Imports and starts are medians of --repeats new processes, after one that warms the file cache.
Memory is what the echo engine's server grew by, divided by how many there were; gRPC's own buffers
are in it. A stream is one whose first word is read and whose second is long in coming.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import grpc

from load import machine
from load.servers import ServerProcess, free_port, serves_grpc, serving
from talkwire import AsyncClient

IMPORT = """import time; begun = time.perf_counter(); import talkwire
print(1000 * (time.perf_counter() - begun))"""
SETTLE = 0.5  # seconds, for what is on its way


def imported() -> float:
    """Return the milliseconds that `import talkwire` takes in a new process."""
    run = subprocess.run([sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True)
    return float(run.stdout)


def started(folder: Path) -> float:
    """Return the milliseconds from the command to SERVING, on the echo engine."""
    port, begun = free_port(), time.perf_counter()
    with serving(_command(port), port, serves_grpc, folder / "start.log"):
        return 1000 * (time.perf_counter() - begun)


async def per_connection(server: ServerProcess, target: str, count: int) -> float:
    """Return the kilobytes of an idle connection."""
    async with AsyncExitStack() as stack:

        async def connect() -> None:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(target, options))
            await channel.channel_ready()

        return await _grown(server, count, connect)


async def per_stream(server: ServerProcess, target: str, count: int, **options: Any) -> float:
    """Return the kilobytes of a stream that waits for its next word."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(AsyncClient(target, timeout=None, **options))
        await client.chat("one")  # which opens what all share

        async def begin() -> None:
            stream = await stack.enter_async_context(client.stream("one two"))
            await anext(stream)

        return await _grown(server, count, begin)


async def _grown(server: ServerProcess, count: int, add: Callable[[], Awaitable[None]]) -> float:
    await asyncio.sleep(SETTLE)
    before = server.resident()
    await asyncio.gather(*(add() for _ in range(count)))
    await asyncio.sleep(SETTLE)
    return 1000 * (server.resident() - before) / count


@asynccontextmanager
async def _server(folder: Path, *flags: str) -> AsyncIterator[tuple[ServerProcess, str]]:
    port = free_port()
    command = _command(port, "--echo-delay=2", *flags)
    with serving(command, port, serves_grpc, folder / "server.log") as server:
        yield server, f"127.0.0.1:{port}"


def _command(port: int, *flags: str) -> list[str]:
    return ["-m", "talkwire_server", "--engine=echo", f"--port={port}", "--host=127.0.0.1", *flags]


async def measure(flags: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Measure all."""
    imports = [imported() for _ in range(flags.repeats + 1)]
    starts = [started(folder) for _ in range(flags.repeats + 1)]
    seen = {"import_ms": median(imports[1:]), "start_ms": median(starts[1:])}
    ways: dict[str, dict[str, Any]] = {"stream_kb": {}, "multiplexed_kb": {"multiplex": True}}
    async with _server(folder) as (server, target):
        seen["server_mb"] = server.resident()
        seen["connection_kb"] = await per_connection(server, target, flags.connections)
    for name, options in ways.items():  # each on a server of its own: freed memory is used again
        async with _server(folder, f"--max-running-requests={flags.streams}") as (server, target):
            seen[name] = await per_stream(server, target, flags.streams, **options)
    return seen


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--streams", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="(%(default)s)")
    parser.add_argument("--out", type=Path, help="write FILE.json", metavar="FILE")
    flags = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as temporary:
        seen = asyncio.run(measure(flags, Path(temporary)))
    print(*(f"{name} {value:.1f}" for name, value in seen.items()), sep="\n")
    if flags.out:
        kept = {key: getattr(flags, key) for key in ("connections", "streams", "repeats")}
        told = {"benchmark": "footprint", "machine": machine.describe(), "settings": kept}
        flags.out.with_suffix(".json").write_text(
            json.dumps({**told, "ways": {"talkwire": seen}}, indent=1)
        )


if __name__ == "__main__":
    main()
