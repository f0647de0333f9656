"""Streams that end at random moments in random ways leave nothing behind. Figures: pytest -s.

`TALKWIRE_FAULTS=full` runs 10,000 of them on the echo engine, else it is 600.
"""

import asyncio
import json
import os
import random
import signal
import statistics
import sys
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from prometheus_client import REGISTRY

from support import RunningServer, running
from talkwire import AsyncClient
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call, Delta, Engine

FULL = os.environ.get("TALKWIRE_FAULTS") == "full"
ENDER = Path(__file__).parent / "ender.py"
pytestmark = pytest.mark.timeout(1800 if FULL else 300)


class Watched:
    """A real engine, and when its streams ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.ended: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def stream(self, call: Call) -> AsyncIterator[Delta]:
        try:
            async with aclosing(self._engine.stream(call)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.ended[call.id] = monotonic()


async def ender(target: str, chats: int, seed: int, *ways: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, ENDER, target, str(chats), str(seed), *ways, stdout=asyncio.subprocess.PIPE
    )


async def ended(process: asyncio.subprocess.Process) -> dict[str, tuple[str, float]]:
    """Wait for a client; return which of its chats it ended how and when."""
    told, _ = await process.communicate()
    lines = [json.loads(line) for line in told.splitlines() if line.endswith(b"]")]
    return {call: (way, at) for call, way, at in lines}


async def left(target: str, chats: int, seed: int) -> dict[str, tuple[str, float]]:
    """Have a client end its chats itself."""
    return await ended(await ender(target, chats, seed))


async def killed(target: str, chats: int, seed: int, stop: bool) -> dict[str, tuple[str, float]]:
    """Kill a client amid its chats; maybe stop it before, so that nothing is read any more."""
    process = await ender(target, chats, seed, "never")
    assert process.stdout
    first = await process.stdout.readline()
    await asyncio.sleep(random.Random(seed).uniform(0, 0.5))
    if stop:
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)
    at = monotonic()
    process.send_signal(signal.SIGKILL)
    told = {**await ended(process), json.loads(first)[0]: ("", 0.0)}
    return dict.fromkeys(told, ("stopped and killed" if stop else "killed", at))


async def wave(server: RunningServer, chats: int, seed: int) -> dict[str, list[float]]:
    """End this many chats; return by way how long the engine went on, in seconds."""
    engine: Any = server.engine
    engine.ended.clear()
    share = chats // 10
    parts = await asyncio.gather(
        *(left(server.target, chats * 4 // 10, seed + i) for i in range(2)),
        killed(server.target, share, seed + 2, stop=False),
        killed(server.target, share, seed + 3, stop=True),
    )
    async with asyncio.timeout(60):
        while engine.unfinished or server.server.admission.running:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    late: dict[str, list[float]] = defaultdict(list)
    for part in parts:
        for call, (way, at) in part.items():
            if call in engine.ended:  # else it ended before it reached the server
                assert engine.ended[call] > at
                late[way].append(engine.ended[call] - at)
    return late


def resident() -> float:
    """Memory of this process, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 1e6


async def waves(server: RunningServer, count: int, chats: int) -> None:
    """Run waves, check after each that nothing is left, print what was seen."""
    await wave(server, chats, 0)
    tasks = len(asyncio.all_tasks())
    late: dict[str, list[float]] = defaultdict(list)
    memory = []
    for number in range(1, count + 1):
        for way, seconds in (await wave(server, chats, 10 * number)).items():
            late[way] += seconds
        assert len(asyncio.all_tasks()) <= tasks
        memory.append(resident())
    sys.stdout.write(f"\n{'way':20} streams  ended after, ms: p50    p99    max\n")
    for way, seconds in sorted(late.items()):
        ms = sorted(1000 * s for s in seconds)
        p99 = ms[int(0.99 * (len(ms) - 1))]
        sys.stdout.write(f"{way:20} {len(ms):7} {statistics.median(ms):23.1f} {p99:6.1f}")
        sys.stdout.write(f" {ms[-1]:6.1f}\n")
    slope = statistics.linear_regression(range(count), memory).slope
    sys.stdout.write(f"memory {memory[0]:.1f} to {memory[-1]:.1f} MB, {slope:+.3f} MB a wave\n")
    assert set(late) == {"cancel", "leave", "deadline", "task", "channel", "killed", *STOPPED}
    if count >= 10:  # few waves are all noise
        assert slope * 1e6 / chats < 1000  # bytes a stream


STOPPED = {"stopped and killed"}


async def test_nothing_is_left_of_ten_thousand_streams() -> None:
    """Neither requests, nor tasks, nor memory; by each way the engine stops at once."""
    count, chats = (10, 1000) if FULL else (3, 200)
    engine: Any = Watched(EchoEngine(["echo"], "", 0.05))
    async with running(engine) as server:
        await waves(server, count, chats)


async def test_nothing_is_left_in_vllm(vllm: RunningServer, llm: AsyncClient) -> None:
    """The same of vLLM, whose KV cache is empty in the end."""
    count, chats = (4, 100) if FULL else (2, 50)
    engine: Any = Watched(vllm.engine)
    async with running(engine) as server:
        await waves(server, count, chats)
    await llm.chat("Hi", max_tokens=1)  # vLLM tells its figures when it works
    usage = [
        sample.value
        for metric in REGISTRY.collect()
        for sample in metric.samples
        if sample.name == "vllm:kv_cache_usage_perc"
    ]
    sys.stdout.write(f"KV cache in use: {usage}\n")
    assert usage == [0]
