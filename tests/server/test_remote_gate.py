"""The gate asked from another process: whatever falls together, no place is lost or given twice."""

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import Bounds, LocalGate
from talkwire_server.admission.fair_queue import Size
from talkwire_server.callers import Caller
from talkwire_server.engine import Call
from talkwire_server.errors import CallError, QueueFull, RequestIdInUse, ShuttingDown
from talkwire_server.frontends.desk import Desk
from talkwire_server.frontends.remote_gate import RemoteGate
from talkwire_server.settings import Settings

PLACES, MOST, ONE = 2, 4, Size(1, 1)
ADA = Caller(name="ada")


class Line:
    """Two ends whose messages are on their way until they are let through."""

    def __init__(self, gate: LocalGate) -> None:
        self.desk = Desk(gate, (), lambda message: self._back.append(message))
        self.remote = RemoteGate(lambda message: self._forth.append(message))
        self._forth = deque[Any]()
        self._back = deque[Any]()

    def pass_on(self) -> None:
        """Let through what is on its way."""
        while self._forth:
            self.desk.take(self._forth.popleft())
        while self._back:
            self.remote.take(self._back.popleft())


class Visit:
    """A call in a task of its own: it enters, stays as long as it is let, and leaves."""

    def __init__(self, line: Line, number: int) -> None:
        self.line = line
        self.call = Call(str(number), "m", pb.ChatRequest(query="x", n=1 + number % 3 // 2))
        self.may_leave = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async with self.line.remote.entering(self.call, ADA, ONE, 1, None):
            await self.may_leave.wait()


async def settled(lines: list[Line]) -> None:
    for _ in range(12):
        for line in lines:
            line.pass_on()
        await asyncio.sleep(0)


def gate(places: int = PLACES, queued: int = MOST) -> LocalGate:
    return LocalGate(Bounds(places, queued, Size(100, 100)), Settings())


STEPS = ["enter", "enter", "cancel", "end", "leave", "refuse", "run", "pass", "die"]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0)), min_size=10, max_size=60))
async def test_no_place_is_lost_or_given_twice(steps: list[tuple[str, int]]) -> None:
    """After any interleaving of two processes' messages all have gone, and all places are free."""
    shared = gate()
    lines, gone, visits = [Line(shared), Line(shared)], list[Line](), list[Visit]()
    for step, which in steps:
        line = lines[which % 2]
        if step == "enter":
            visits.append(Visit(line, len(visits)))
        elif step == "refuse":
            line.remote.refuse(ShuttingDown)
        elif step == "run":
            await asyncio.sleep(0)
        elif step == "pass":
            line.pass_on()
        elif step == "die":
            gone.append(line)
            line.desk.close()
            lines[which % 2] = Line(shared)
        elif visits:
            visit = visits[which % len(visits)]
            if step == "cancel":
                visit.task.cancel()
            elif step == "end":
                visit.call.end(pb.FINISH_REASON_ABORTED)
            else:
                visit.may_leave.set()
        inside = [v for v in visits if v.line in lines and not v.task.done()]
        assert sum(v.call.places for v in inside) <= PLACES
    for visit in visits:
        if visit.line in gone:
            visit.task.cancel()
        visit.may_leave.set()
    async with asyncio.timeout(30):
        while not all(visit.task.done() for visit in visits):
            await settled(lines)
    ends = await asyncio.gather(*(v.task for v in visits), return_exceptions=True)
    await settled(lines)
    assert all(end is None or isinstance(end, CallError | asyncio.CancelledError) for end in ends)
    assert (shared.running, shared.waiting) == (0, 0)
    last = Call("last", "m", pb.ChatRequest(query="x", n=PLACES))
    async with shared.entering(last, ADA, ONE, 1, None):
        assert last.places == PLACES


async def test_refusals_are_what_they_are() -> None:
    """With their kind, their text and their details."""
    shared = gate(places=1, queued=0)
    one, other = Line(shared), Line(shared)
    inside = Visit(one, 0)
    await settled([one, other])
    again, more = Visit(other, 0), Visit(other, 1)
    await settled([one, other])
    with pytest.raises(RequestIdInUse, match="'0' is running"):
        await again.task
    with pytest.raises(QueueFull) as full:
        await more.task

    assert full.value.retry_after
    assert inside.call.places == 1
    inside.task.cancel()


async def test_a_call_is_aborted_from_elsewhere() -> None:
    """Where it waits it ends without places; others' calls are nobody's to abort."""
    shared = gate(places=1)
    one, other = Line(shared), Line(shared)
    runs, waits = Visit(one, 0), Visit(one, 1)
    await settled([one, other])
    aborts = [
        asyncio.create_task(other.remote.abort(call_id, who))
        for call_id, who in [("0", Caller(name="bob")), ("0", ADA), ("1", ADA), ("2", ADA)]
    ]
    await settled([one, other])

    assert [abort.result() for abort in aborts] == [False, True, True, False]
    assert (runs.call.ending, waits.call.ending) == (pb.FINISH_REASON_ABORTED,) * 2
    assert (runs.call.places, waits.call.places) == (1, 0)
    for visit in (runs, waits):
        visit.may_leave.set()
    await settled([one, other])
    assert shared.running == 0


async def test_counting_is_bounded_over_all() -> None:
    """As many at once as there are places."""
    shared = gate(places=1)
    lines = [Line(shared), Line(shared)]

    async def count(line: Line) -> None:
        async with line.remote.counting(ADA):
            await asyncio.sleep(3600)

    counts = [asyncio.create_task(count(line)) for line in lines]
    await settled(lines)

    assert isinstance(counts[1].exception(), QueueFull)
    counts[0].cancel()
    await settled(lines)
    third = asyncio.create_task(count(lines[1]))
    await settled(lines)
    assert not third.done()
    third.cancel()
