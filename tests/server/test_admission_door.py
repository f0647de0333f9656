"""Places and those who wait for them, however wakes, ends and cancels fall together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission.door import Door
from talkwire_server.admission.fair_queue import Size
from talkwire_server.admission.pace import Pace
from talkwire_server.callers import Caller
from talkwire_server.engine import Call
from talkwire_server.errors import CallError, DeadlineUnreachable, QueueFull, ShuttingDown

PLACES, MOST, ONE = 2, 4, Size(1, 1)
CALLERS = [Caller(name=name) for name in "ab"]


class Visit:
    """A call at a door, in a task of its own: it enters, stays as long as it is let, and leaves."""

    def __init__(self, door: Door, number: int) -> None:
        self.call = Call(str(number), "m", pb.ChatRequest(query="x", n=1 + number % 3 // 2))
        self.may_leave = asyncio.Event()
        self.entered = False
        self.task = asyncio.create_task(self._run(door, CALLERS[number % 2]))

    def take(self, step: str) -> None:
        """Cancel it, end it or let it leave."""
        if step == "cancel":
            self.task.cancel()
        elif step == "end":
            self.call.end(pb.FINISH_REASON_ABORTED)
        else:
            self.may_leave.set()

    async def _run(self, door: Door, caller: Caller) -> None:
        try:
            await door.enter(self.call, caller, ONE, 2, None)
            self.entered = True
            await self.may_leave.wait()
        finally:
            door.leave(self.call)


async def settled(door: Door, visits: list[Visit]) -> None:
    """Let all go as far as it goes: nobody waits in vain."""
    for _ in range(8):
        await asyncio.sleep(0)
    free = PLACES - sum(visit.call.places for visit in visits if not visit.task.done())
    waiting = [v.call for v in visits if not (v.task.done() or v.entered)]
    assert len(waiting) == door.waiting
    assert not any(call.ending for call in waiting)
    assert not waiting or any(call.request.n > free for call in waiting)


STEPS = ["enter", "enter", "cancel", "end", "leave", "refuse", "run", "settle"]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0)), min_size=10, max_size=60))
async def test_no_place_is_lost_or_given_twice(steps: list[tuple[str, int]]) -> None:
    """After any interleaving all have gone, and as many places are free as there were."""
    door, visits = Door(PLACES, MOST, Size(100, 100), Pace()), list[Visit]()
    for step, which in steps:
        if step == "enter":
            visits.append(Visit(door, which))
        elif step == "refuse":
            door.refuse(ShuttingDown)
        elif step == "run":
            await asyncio.sleep(0)
        elif step == "settle":
            await settled(door, visits)
        elif visits:
            visits[which % len(visits)].take(step)
        held = sum(visit.call.places for visit in visits if not visit.task.done())
        assert held <= PLACES
        assert door.waiting <= MOST
    await settled(door, visits)
    for visit in visits:
        visit.may_leave.set()
    async with asyncio.timeout(30):
        ends = await asyncio.gather(*(v.task for v in visits), return_exceptions=True)
    assert all(end is None or isinstance(end, CallError | asyncio.CancelledError) for end in ends)
    last = Call("last", "m", pb.ChatRequest(query="x", n=PLACES))
    await door.enter(last, CALLERS[0], ONE, 1, None)
    assert (last.places, door.waiting) == (PLACES, 0)


@asynccontextmanager
async def full(**bounds: int) -> AsyncIterator[tuple[Door, Call]]:
    """A door with one place, and the call that holds it, which does not leave by itself."""
    door = Door(1, bounds.get("most", 1), Size(100, 100), Pace())
    first = Call("first", "m", pb.ChatRequest(query="x"))
    await door.enter(first, CALLERS[0], ONE, 1, None)
    yield door, first


def entering(door: Door, caller: Caller, weights: int = 2) -> asyncio.Task[None]:
    """Begin to wait."""
    call = Call("", "m", pb.ChatRequest(query="x"))
    return asyncio.create_task(door.enter(call, caller, ONE, weights, None))


async def test_who_is_woken_and_cancelled_at_once_passes_the_place_on() -> None:
    """The place is its own already, and goes to the next."""
    async with full(most=2) as (door, first):
        calls = [Call(name, "m", pb.ChatRequest(query="x")) for name in "ab"]
        tasks = [asyncio.create_task(door.enter(call, CALLERS[0], ONE, 1, None)) for call in calls]
        await asyncio.sleep(0)
        door.leave(first)
        assert [call.places for call in calls] == [1, 0]
        tasks[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        door.leave(calls[0])
        await tasks[1]
        assert calls[1].places == 1


async def test_who_needs_one_place_does_not_overtake_who_needs_two() -> None:
    """Not even one that comes while there is room for it, or the large would never go."""
    door = Door(2, 2, Size(100, 100), Pace())
    first, large, small = (Call("", "m", pb.ChatRequest(query="x", n=n)) for n in (1, 2, 1))
    await door.enter(first, CALLERS[0], ONE, 1, None)
    tasks = [
        asyncio.create_task(door.enter(call, CALLERS[0], ONE, 1, None)) for call in (large, small)
    ]
    await asyncio.sleep(0)
    assert (large.places, small.places) == (0, 0)
    door.leave(first)
    await tasks[0]
    assert (large.places, small.places) == (2, 0)
    door.leave(large)
    await tasks[1]
    assert small.places == 1


async def test_the_last_of_the_longest_line_gives_way() -> None:
    """When another caller comes; who waits longest stays."""
    async with full(most=2) as (door, first):
        flood = [entering(door, CALLERS[0], 1) for _ in range(2)]
        await asyncio.sleep(0)
        other = entering(door, CALLERS[1])
        with pytest.raises(QueueFull):
            await flood[1]
        door.leave(first)
        await flood[0]
        assert not other.done()
        other.cancel()


async def test_estimates() -> None:
    """None before a call has ended; then what a deadline can be compared with."""
    async with full(most=2) as (door, first):
        soon = asyncio.create_task(
            door.enter(Call("", "m", pb.ChatRequest(query="x")), CALLERS[0], ONE, 1, 0.001)
        )
        await asyncio.sleep(0.1)
        door.leave(first)
        await soon
        with pytest.raises(DeadlineUnreachable) as caught:
            await door.enter(Call("", "m", pb.ChatRequest(query="x")), CALLERS[0], ONE, 1, 0.05)
        assert float(caught.value.metadata["estimate"]) >= 0.1
        with pytest.raises(DeadlineUnreachable):
            await door.enter(Call("", "m", pb.ChatRequest(query="x")), CALLERS[0], ONE, 1, 0)
