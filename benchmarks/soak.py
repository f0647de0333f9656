"""Mixed traffic at 80 % of a server's capacity, for long, and whether anything grows.

    python benchmarks/soak.py [MINUTES]      (default: 30)

Prints the server's memory and open files and the 99th percentile of the time of an answer, minute
by minute, and the slope of a line through each; the first minute, when caches fill, is left out.
"""

import asyncio
import random
import re
import statistics
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from time import monotonic

from talkwire import AsyncClient, Error, InvalidRequest

RUNNING, WORDS, PAUSE = 32, 20, 0.02  # capacity: 80 answers a second
RATE = 0.8 * RUNNING / (WORDS * PAUSE)
TEXT = "word " * WORDS
PACE = ("--max-running-requests", str(RUNNING), "--echo-delay", str(PAUSE))

Chat = Callable[[AsyncClient], Awaitable[object]]


async def unary(client: AsyncClient) -> None:
    """Take a whole answer."""
    await client.chat(TEXT)


async def stream(client: AsyncClient) -> None:
    """Take it piece by piece."""
    async with client.stream(TEXT) as chunks:
        await chunks.wait()


async def leave(client: AsyncClient) -> None:
    """Leave amid it."""
    async with client.stream(TEXT) as chunks:
        async for _ in chunks:
            break


async def late(client: AsyncClient) -> None:
    """Give up when a deadline passes."""
    with suppress(Error):
        await client.chat(TEXT, timeout=0.1)


async def wrong(client: AsyncClient) -> None:
    """Ask what is refused."""
    with suppress(InvalidRequest):
        await client.chat(TEXT, temperature=-1)


async def structured(client: AsyncClient) -> None:
    """Carry a tool, a picture and a history."""
    tool = {"name": "f", "parameters": {"type": "object"}}
    await client.chat(
        TEXT, tools=[tool], messages=[{"text": "Hi."}, {"role": "assistant", "text": "Hm."}]
    )


MIX: Sequence[tuple[Chat, int]] = (
    (unary, 30),
    (stream, 40),
    (leave, 10),
    (late, 5),
    (wrong, 5),
    (structured, 10),
)


class Load:
    """Asks at random moments, at a steady rate; keeps how long the whole answers took."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.seconds: list[float] = []
        self.failed = 0

    async def run(self, until: float) -> None:
        """Ask until then."""
        draw = random.Random(0)
        chats, weights = zip(*MIX, strict=True)
        async with asyncio.TaskGroup() as group:
            while monotonic() < until:
                await asyncio.sleep(draw.expovariate(RATE))
                (chat,) = draw.choices(chats, weights)
                group.create_task(self._one(chat))

    async def _one(self, chat: Chat) -> None:
        start = monotonic()
        try:
            await chat(self._client)
        except Error:
            self.failed += 1
        else:
            if chat in (unary, stream):
                self.seconds.append(monotonic() - start)

    def p99(self) -> float:
        """Milliseconds since the last time that this was asked."""
        taken, self.seconds = sorted(self.seconds), []
        return 1000 * taken[int(0.99 * (len(taken) - 1))]


def usage(pid: int) -> tuple[float, int]:
    """Return a process's memory in MB, and how many files it has open."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kilobytes) / 1000, len([*Path(f"/proc/{pid}/fd").iterdir()])


async def soak(target: str, pid: int, minutes: int) -> None:
    """Ask, look each minute, print what was seen."""
    async with AsyncClient(target) as client:
        load = Load(client)
        asking = asyncio.create_task(load.run(monotonic() + 60 * minutes))
        seen = []
        for minute in count(1):
            await asyncio.wait([asking], timeout=60)
            if asking.done():
                break
            seen.append((*usage(pid), load.p99()))
            memory, files, p99 = seen[-1]
            print(
                f"{minute:4} min  {memory:7.1f} MB  {files:4} files  p99 {p99:6.1f} ms", flush=True
            )
        await asking
    names = ("MB", "files", "ms of p99")
    for name, values in zip(names, zip(*seen[1:], strict=True), strict=True):
        slope = statistics.linear_regression(range(len(values)), values).slope
        print(f"{slope:+.3f} {name} a minute, {min(values):.1f} to {max(values):.1f}")
    print(f"{load.failed} answers failed")


def main() -> None:
    """Serve in a process of its own."""
    minutes = int(sys.argv[1]) if len(sys.argv) > 1 else 30
    command = [sys.executable, "-m", "talkwire_server", "--engine", "echo", "--port", "0", *PACE]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        serving = next(line for line in server.stderr if " serving " in line)
        target = serving.rpartition(" on ")[2].split()[0]
        try:
            asyncio.run(soak(target, server.pid, minutes))
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
