"""Streams that end at random moments in random ways leave nothing behind.

`TALKWIRE_FAULTS=full` ends more than 10,000 of them on the echo engine, else it is some hundreds.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import sys
from collections import ChainMap, Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client import REGISTRY

from fault_table import Table
from load.watched import Watched
from network import HOST, INSIDE, join, network, part
from support import RunningServer, running
from talkwire import AsyncClient
from talkwire_server.echo import EchoEngine

FULL = os.environ.get("TALKWIRE_FAULTS") == "full"
ENDER = Path(__file__).parent / "ender.py"
CHATS = 20  # of a client that is ended from outside
pytestmark = pytest.mark.timeout(1800 if FULL else 300)

Ends = dict[str, tuple[str, float]]
"""How and when a client ended its chats, by request id."""
Process = asyncio.subprocess.Process
Way = Callable[[Process], Awaitable[float]]
"""Ends a client from outside; returns when."""


async def rest(server: RunningServer) -> None:
    """Wait until nothing runs, or so long that nothing will end any more."""
    with suppress(TimeoutError):
        async with asyncio.timeout(100):
            while server.engine.unfinished or server.server.admission.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def begin(server: RunningServer, *arguments: object, within: Sequence[str] = ()) -> Process:
    """Start a client."""
    command = [*within, sys.executable, str(ENDER), server.target, *map(str, arguments)]
    return await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)


async def left(server: RunningServer, chats: int, seed: int, *kind: str) -> Ends:
    """Have a client end its chats itself."""
    process = await begin(server, chats, seed, *kind)
    told, _ = await process.communicate()
    return {call: (way, at) for call, way, at in map(json.loads, told.splitlines())}


async def ended(server: RunningServer, seed: int, way: Way, *kind: str) -> Ends:
    """End the chats of a client from outside, at a random moment, all at once."""
    within = INSIDE if way is dropped else ()
    process = await begin(server, CHATS, seed, "never", *kind, within=within)
    assert process.stdout
    calls = [json.loads(await process.stdout.readline())[0] for _ in range(CHATS)]
    await asyncio.sleep(random.Random(seed).uniform(0, 1))
    try:
        at = await way(process)
        await rest(server)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    await process.communicate()
    if way is dropped:
        join()
    return dict.fromkeys(calls, (way.__name__.replace("_", " "), at))


async def killed(client: Process) -> float:
    """Have the kernel close its connection."""
    at = monotonic()
    client.kill()
    return at


async def stopped(client: Process) -> float:
    """Have it stand still: its kernel takes what comes, but nobody answers a ping."""
    at = monotonic()
    client.send_signal(signal.SIGSTOP)
    return at


async def stopped_and_killed(client: Process) -> float:
    """Kill it when it reads nothing any more."""
    await stopped(client)
    await asyncio.sleep(0.5)
    return await killed(client)


async def dropped(_client: Process) -> float:
    """Lose its packets."""
    at = monotonic()
    part()
    return at


class Tally:
    """How long the engine went on with chats that had ended, by way; and with how many it does."""

    def __init__(self) -> None:
        self.late: dict[str, list[float]] = defaultdict(list)
        self.lost: Counter[str] = Counter()

    async def wave(self, server: RunningServer, *clients: Awaitable[Ends]) -> None:
        """Let clients end their chats, and count when the engine did."""
        engine: Any = server.engine
        engine.begun.clear()
        engine.ended.clear()
        parts = await asyncio.gather(*clients)
        await rest(server)
        for call, (way, at) in ChainMap(*parts).items():
            if call in engine.ended:
                assert engine.ended[call] > at
                self.late[way].append(engine.ended[call] - at)
            elif call in engine.begun:  # else it ended before it reached the engine
                self.lost[way] += 1
        assert self.lost or not server.server.admission.running

    def tell(self, table: Table, fault: str, target: float = inf) -> None:
        """Add what was seen, in milliseconds; the target is that of the 99th percentile."""
        for way, seconds in sorted(self.late.items()):
            ms = sorted(1000 * s for s in seconds)
            p99 = ms[int(0.99 * (len(ms) - 1))]
            seen = (
                f"ended after ms: p50 {statistics.median(ms):.1f}, p99 {p99:.1f}, max {ms[-1]:.1f}"
            )
            if target < inf:
                seen += f"; target {target:g}: {'met' if p99 <= target else 'not met'}"
            table.add(fault, way, len(ms) + self.lost[way], self.lost[way], seen)


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


async def waves(
    server: RunningServer, count: int, chats: int, *kind: str
) -> tuple[Tally, int, list[float]]:
    """Run waves; return what ended when, how many tasks are left, and the memory after each."""

    def clients(seed: int) -> list[Awaitable[Ends]]:
        return [
            left(server, chats // 2, seed, *kind),
            left(server, chats // 2, seed + 1, *kind),
            ended(server, seed + 2, killed, *kind),
            ended(server, seed + 3, stopped_and_killed, *kind),
        ]

    await Tally().wave(server, *clients(0))
    tasks, tally, memory = len(asyncio.all_tasks()), Tally(), []
    for number in range(1, count + 1):
        await tally.wave(server, *clients(10 * number))
        memory.append(resident())
    assert set(tally.late) == {
        "cancel",
        "leave",
        "deadline",
        "task",
        "channel",
        "killed",
        "stopped and killed",
    }
    return tally, len(asyncio.all_tasks()) - tasks, memory


async def test_nothing_is_left_of_ten_thousand_streams(table: Table) -> None:
    """Neither requests, nor tasks, nor memory; by each way the engine stops at once."""
    count, chats = (10, 1000) if FULL else (3, 100)
    engine: Any = Watched(EchoEngine(["echo"], "", 0.1))
    async with running(engine) as server:
        tally, tasks, memory = await waves(server, count, chats)
    tally.tell(table, "ended at random", target=20)
    slope = statistics.linear_regression(range(count), memory).slope
    seen = f"memory {memory[0]:.1f} to {memory[-1]:.1f} MB, {slope:+.3f} MB a wave;"
    seen += f" load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"
    table.add("ended at random", "waves of all these; tasks left", count, tasks, seen)
    assert not tally.lost
    assert tasks <= 0
    if count >= 10:  # few waves are all noise
        assert slope * 1e6 / chats < 1000  # bytes a stream


async def test_nothing_is_left_of_multiplexed_streams(table: Table) -> None:
    """The same of streams that share a call with others, which go on."""
    engine: Any = Watched(EchoEngine(["echo"], "", 0.1))
    async with running(engine) as server:
        tally, tasks, _ = await waves(server, 1, 1000 if FULL else 100, "multiplexed")
    tally.tell(table, "ended at random, multiplexed", target=20)
    table.add("ended at random, multiplexed", "waves of all these; tasks left", 1, tasks)
    assert not tally.lost
    assert tasks <= 0


@pytest.mark.parametrize("way", [stopped, dropped])
async def test_nothing_is_left_of_clients_that_fall_silent(way: Way, table: Table) -> None:
    """Where the kernel hears of no end, either: after 45 s they are known to be gone."""
    engine: Any = Watched(EchoEngine(["echo"], "", 0.1))
    tally = Tally()
    with network() if way is dropped else nullcontext():
        host = HOST if way is dropped else "127.0.0.1"
        async with running(engine, host=host, allow_insecure=True) as server:
            for number in range(10 if FULL else 1):
                await tally.wave(server, ended(server, number, way))
    tally.tell(table, "falls silent", target=45_000)
    assert not tally.lost
    assert max(tally.late[way.__name__]) < 45


async def test_nothing_is_left_in_vllm(vllm: RunningServer, llm: AsyncClient, table: Table) -> None:
    """The same of vLLM, whose KV cache is empty in the end."""
    count, chats = (3, 120) if FULL else (2, 20)
    engine: Any = Watched(vllm.engine)
    async with running(engine, max_queued_requests=100) as server:
        tally, tasks, _ = await waves(server, count, chats)
    await llm.chat("Hi", max_tokens=1)  # vLLM tells its figures when it works
    usage = [
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "vllm:kv_cache_usage_perc"
    ]
    tally.tell(table, "ended at random, vLLM")
    seen = f"KV cache in use: {usage}"
    table.add("ended at random, vLLM", "waves of all these; tasks left", count, tasks, seen)
    assert not tally.lost
    assert tasks <= 0
    assert usage == [0]
