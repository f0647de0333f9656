"""Draw what the dashboard shows of a server under load, as Prometheus answers its queries.

    python benchmarks/dashboard.py docs/dashboard.png [--engine echo] [--seconds 150]
                                  (needs prometheus, talkwire[bench], and for vLLM talkwire[cpu])

The load comes and goes; some callers leave, some are too many. With the echo engine what vLLM
counts is left out.
"""

import argparse
import asyncio
import random
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from math import sin
from pathlib import Path
from time import monotonic
from typing import Any

from load.prometheus import Panel, Prometheus, Series, panels, prometheus
from load.servers import free_port, serves_grpc, serving
from talkwire import AsyncClient, Error

COLUMNS = 4
ENGINES = {
    "echo": ["--engine=echo", "--echo-delay=0.05"],
    "vllm": [f"--kv-cache-memory-bytes={128 << 20}", "--max-model-len=2048", "--max-num-seqs=4"],
}
SYSTEM = "You tell stories about the sea, in plain words, and you love to tell them. " * 10
UNITS = {"s": "seconds", "reqps": "a second", "percentunit": "share", "short": ""}


async def ask(client: AsyncClient, draw: random.Random) -> None:
    """Ask something, and maybe leave, or have too little time."""
    options: dict[str, Any] = draw.choice([{}, {}, {}, {}, {"timeout": 1.0}, {"time_limit": 1.5}])
    query = f"Tell me story {draw.randrange(9)}. " + "Go on, go on. " * 12
    leaves = draw.random() < 0.1
    with suppress(Error):
        async with client.stream(query, system=SYSTEM, max_tokens=48, **options) as stream:
            async for _ in stream:
                if leaves:
                    return


async def load(target: str, seconds: float) -> None:
    """Have a load that comes and goes, half of it multiplexed."""
    draw, end = random.Random(0), monotonic() + seconds
    async with (
        AsyncClient(target, retry=None) as single,
        AsyncClient(target, retry=None, multiplex=True) as shared,
        asyncio.TaskGroup() as group,
    ):
        asking: set[asyncio.Task[None]] = set()
        while monotonic() < end:
            most = 5 + 5 * sin(monotonic() / 10)
            if len(asking) < most:
                task = group.create_task(ask(draw.choice([single, shared]), draw))
                asking.add(task)
                task.add_done_callback(asking.discard)
            await asyncio.sleep(0.1)


async def record(flags: argparse.Namespace) -> dict[Panel, list[tuple[str, Series]]]:
    """Return what each panel shows: series by their names."""
    port, page = free_port(), free_port()
    command = ["-m", "talkwire_server", *ENGINES[flags.engine], f"--port={port}", "--frontends=2"]
    command += [f"--metrics-port={page}", "--metrics-callers=127.0.0.1"]
    command += ["--max-running-requests=4", "--max-queued-requests=3", "--no-log-chats"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with serving(command, port, serves_grpc, folder / "server.log"):
            url = f"http://127.0.0.1:{page}/metrics"
            async with prometheus(folder, url) as one:
                await load(f"127.0.0.1:{port}", flags.seconds)
                return {panel: [*shown(one, panel)] for panel in asked(flags.engine)}


def asked(engine: str) -> list[Panel]:
    """Return the panels that have something to show."""
    return [
        panel
        for panel in panels()
        if panel.kind == "timeseries" and (engine == "vllm" or not panel.is_vllms)
    ]


def shown(one: Prometheus, panel: Panel) -> Sequence[tuple[str, Series]]:
    """Return a panel's series with their names."""
    found = []
    for query in panel.queries:
        for series in one.series(query.text):
            name = query.legend
            for label, value in series.labels.items():
                name = name.replace("{{" + label + "}}", value)
            found.append((name, series))
    return found


def draw(recorded: dict[Panel, list[tuple[str, Series]]], file: Path) -> None:
    """Draw the panels."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = -(-len(recorded) // COLUMNS)
    picture, axes = pyplot.subplots(
        rows, COLUMNS, figsize=(5 * COLUMNS, 3 * rows), layout="constrained"
    )
    for axis in axes.flat[len(recorded) :]:
        axis.set_axis_off()
    for axis, (panel, found) in zip(axes.flat, recorded.items(), strict=False):
        for name, series in found:
            axis.plot(series.times, series.values, label=name)
        axis.set_title(panel.title, fontsize=11)
        axis.set_ylabel(UNITS[panel.unit])
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if found:
            axis.legend(fontsize=7)
    picture.savefig(file, dpi=60)


def main() -> None:
    """Record, and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--engine", choices=ENGINES, default="vllm", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=150, help="of load (%(default)g)")
    flags = parser.parse_args()
    draw(asyncio.run(record(flags)), flags.file)


if __name__ == "__main__":
    main()
