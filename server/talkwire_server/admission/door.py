"""The places in which calls run, and those who wait for one. Knows no engine.

All of it happens on one event loop, and nothing but the place itself is awaited. A call that waits
costs a future, and no task beside its handler's.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from talkwire_server.admission.fair_queue import FairQueue, Size, Waiting
from talkwire_server.admission.pace import Pace
from talkwire_server.callers import Caller
from talkwire_server.engine import Call
from talkwire_server.errors import CallError, DeadlineUnreachable, QueueFull


@dataclass(slots=True, eq=False, kw_only=True)
class _Waiting(Waiting):
    """A call that waits; it is told None when it may go on, else why it may not."""

    call: Call
    told: asyncio.Future[CallError | None]

    def tell(self, refusal: CallError | None) -> None:
        """Wake its handler, unless that was told or cancelled already, and has yet to run."""
        if not self.told.done():
            self.told.set_result(refusal)


class Door:
    """So many places, and a queue before them.

    Args:
        places: How many answers are generated at once.
        most: How many calls may wait.
        most_size: How much their requests may be together.
        pace: Learns from each call that leaves.

    """

    def __init__(self, places: int, most: int, most_size: Size, pace: Pace) -> None:
        self._places = self._free = places
        self._most_size = most_size
        self._queue = FairQueue[_Waiting](most, most_size)
        self._pace = pace

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return len(self._queue)

    async def enter(
        self, call: Call, caller: Caller, size: Size, weights: int, left: float | None
    ) -> None:
        """Return when a call holds its places, `call.places`; or was ended, and holds none.

        Args:
            call: Who wants in; one place for each of its answers.
            caller: Whose it is.
            size: Of its request; one that is over all bounds waits where no other does.
            weights: See `FairQueue.push`.
            left: Seconds until its deadline.

        """
        places = call.request.n or 1
        if not self._queue and places <= self._free:
            _check_deadline(left, 0)
            self._hold(call, places)
            return
        waiting = _Waiting(
            call=call,
            caller=caller,
            places=places,
            size=Size(*map(min, size, self._most_size)),
            priority=call.request.priority,
            told=asyncio.get_running_loop().create_future(),
        )
        ends = self._queue.ahead(waiting) + places
        _check_deadline(left, self._pace.wait(ends, self._places))
        await self._wait(waiting, weights)

    def leave(self, call: Call) -> None:
        """Give the places of a call, if it holds any, to those who come next."""
        if call.places:
            self._free += call.places
            self._pace.ended(monotonic() - call.started)
            self._advance()

    def refuse(self, refusal: Callable[[], CallError]) -> None:
        """Send all away who wait."""
        for waiting in self._queue.clear():
            waiting.tell(refusal())

    async def _wait(self, waiting: _Waiting, weights: int) -> None:
        call = waiting.call
        for gone in self._queue.push(waiting, weights):
            gone.tell(QueueFull(self._pace.retry_after(len(self._queue) + 1, self._places)))
        call.on_end(lambda: waiting.tell(None))
        try:
            refusal = await waiting.told
        finally:
            call.waited = monotonic() - call.arrival
            if self._queue.remove(waiting):  # cancelled or ended: the next may need fewer places
                self._advance()
        if refusal:
            raise refusal

    def _hold(self, call: Call, places: int) -> None:
        self._free -= places
        call.places = places

    def _advance(self) -> None:
        while waiting := self._queue.pop(self._free):
            if not waiting.told.done():  # else it is on its way out, and needs no place
                self._hold(waiting.call, waiting.places)
                waiting.tell(None)


def _check_deadline(left: float | None, wait: float) -> None:
    if left is not None and left <= wait:
        raise DeadlineUnreachable(left, wait)
