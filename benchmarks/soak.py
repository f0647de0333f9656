"""Mixed traffic at 80 % of a server's capacity, for long, and whether anything grows.

    python benchmarks/soak.py [MINUTES]      (default: 30)

Finds the capacity first: how many calls of the mix a second end when as many callers as there are
places ask again and again. Then asks at random moments, whatever the server says. Prints the
server's memory, its open files and the 99th percentile of the time of an answer, minute by minute,
and the slope of a line through each with its 95 % interval; the first fifth, when caches fill, is
left out. Ends with status 1 if a line rises: if its interval is above zero, and it gains more than
4 MB, 4 files or half of the 99th percentile.
"""

import argparse
import asyncio
import random
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, linear_regression, median
from time import monotonic

from talkwire import AsyncClient, Error, InvalidRequest, Overloaded, Timeout

RUNNING, WORDS, PAUSE = 32, 20, 0.02
SHARE = 0.8
TEXT = "word " * WORDS
PACE = ("--max-running-requests", str(RUNNING), "--echo-delay", str(PAUSE))
WARM, CALIBRATION, WINDOW = 5, 20, 10  # seconds
MOST = {"MB": 4.0, "files": 4.0}  # that a line may rise by; of the p99 it is half

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
    with suppress(Timeout):
        await client.chat(TEXT, timeout=0.1)


async def wrong(client: AsyncClient) -> None:
    """Ask what is refused."""
    with suppress(InvalidRequest):
        await client.chat(TEXT, temperature=-1)


async def structured(client: AsyncClient) -> None:
    """Carry a tool and a history."""
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
    """Asks, and keeps how many calls ended, how, and how long the whole answers took."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._draw = random.Random(0)
        self.ended = self.refused = self.failed = 0
        self.seconds: list[float] = []

    async def closed(self) -> None:
        """Ask again and again, in as many tasks as the server has places."""

        async def work() -> None:
            while True:
                await self._one()

        async with asyncio.TaskGroup() as group:
            for _ in range(RUNNING):
                group.create_task(work())

    async def open(self, rate: float, until: float) -> None:
        """Ask so often a second, at random moments, until then."""
        due = monotonic()
        async with asyncio.TaskGroup() as group:
            while due < until:
                due += self._draw.expovariate(rate)
                await asyncio.sleep(due - monotonic())
                group.create_task(self._one())

    async def _one(self) -> None:
        chats, weights = zip(*MIX, strict=True)
        (chat,) = self._draw.choices(chats, weights)
        start = monotonic()
        try:
            await chat(self._client)
        except Overloaded:
            self.refused += 1
        except Error:
            self.failed += 1
        else:
            if chat in (unary, stream):
                self.seconds.append(monotonic() - start)
        self.ended += 1

    def p99(self) -> float:
        """Milliseconds since the last time that this was asked."""
        taken, self.seconds = sorted(self.seconds), []
        return 1000 * taken[int(0.99 * (len(taken) - 1))]


@dataclass
class Line:
    """A line through values, one a window.

    Attributes:
        name: What they are of.
        slope: How much it rises a minute.
        error: Half of the 95 % interval of the slope.
        rise: How much it rises over all.
        start: Where it begins.

    """

    name: str
    slope: float
    error: float
    rise: float
    start: float

    @classmethod
    def through(cls, name: str, values: Sequence[float]) -> "Line":
        """Fit it."""
        minutes = [at * WINDOW / 60 for at in range(len(values))]
        slope, start = linear_regression(minutes, values)
        off = sum((y - start - slope * x) ** 2 for x, y in zip(minutes, values, strict=True))
        spread = sum((x - fmean(minutes)) ** 2 for x in minutes)
        error = 2 * sqrt(off / (len(values) - 2) / spread)
        return cls(name, slope, error, slope * minutes[-1], start)

    @property
    def grows(self) -> bool:
        """Whether that is more than noise, and more than nothing to speak of."""
        return self.slope > self.error and self.rise > MOST.get(self.name, self.start / 2)


def usage(pid: int) -> tuple[float, int]:
    """Return a process's memory in MB, and how many files it has open."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", status)
    return int(kilobytes) / 1000, len([*Path(f"/proc/{pid}/fd").iterdir()])


async def capacity(client: AsyncClient) -> float:
    """Return how many calls of the mix a second the server can take."""
    load = Load(client)
    asking = asyncio.create_task(load.closed())
    await asyncio.sleep(WARM)
    before, start = load.ended, monotonic()
    await asyncio.sleep(CALIBRATION)
    rate = (load.ended - before) / (monotonic() - start)
    asking.cancel()
    await asyncio.wait([asking])
    return rate


async def soak(target: str, pid: int, minutes: float) -> bool:
    """Ask, look each window, print what was seen; return whether nothing grows."""
    async with AsyncClient(target, retry=None) as client:
        most = await capacity(client)
        rate = SHARE * most
        print(f"capacity {most:.1f} calls a second; asking {rate:.1f} for {minutes:g} minutes")
        load = Load(client)
        start = monotonic()
        asking = asyncio.create_task(load.open(rate, start + 60 * minutes))
        seen: list[tuple[float, int, float]] = []
        while await asyncio.wait([asking], timeout=WINDOW) and not asking.done():
            seen.append((*usage(pid), load.p99()))
            if len(seen) % (60 // WINDOW) == 0:
                memory, files, p99 = (median(v) for v in zip(*seen[-60 // WINDOW :], strict=True))
                print(
                    f"{len(seen) * WINDOW // 60:4} min  {memory:7.1f} MB  {files:4.0f} files"
                    f"  p99 {p99:6.1f} ms",
                    flush=True,
                )
        await asking
    took = monotonic() - start
    print(f"{load.ended} calls, {load.ended / took / most:.0%} of capacity; {load.refused} refused")
    steady = seen[len(seen) // 5 :]
    names = ("MB", "files", "ms of p99")
    lines = [Line.through(*it) for it in zip(names, zip(*steady, strict=True), strict=True)]
    for line in lines:
        print(
            f"{line.slope:+.3f} ± {line.error:.3f} {line.name} a minute, {line.rise:+.1f} in all:"
            f" {'GROWS' if line.grows else 'flat'}"
        )
    print(f"{load.failed} calls failed")
    return not load.failed and not any(line.grows for line in lines)


def main() -> int:
    """Serve in a process of its own."""
    parser = argparse.ArgumentParser(description="Mixed traffic at 80 %, and whether it grows.")
    parser.add_argument("minutes", nargs="?", type=float, default=30)
    minutes = parser.parse_args().minutes
    command = [sys.executable, "-m", "talkwire_server", "--engine=echo", "--port=0", *PACE]
    command.append("--no-log-chats")  # nobody reads on
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr
        serving = next(line for line in server.stderr if " serving " in line)
        target = serving.rpartition(" on ")[2].split()[0]
        try:
            flat = asyncio.run(soak(target, server.pid, minutes))
        finally:
            server.terminate()
    return 0 if flat else 1


if __name__ == "__main__":
    sys.exit(main())
