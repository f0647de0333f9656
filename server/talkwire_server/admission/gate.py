"""The gate that calls pass: ids, accounts and places. Knows no engine, and no request but its size.

A server of several processes has one: that of `frontends/` is asked for all of them.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import NamedTuple, Protocol

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission.accounts import Accounts
from talkwire_server.admission.door import Door
from talkwire_server.admission.fair_queue import Size
from talkwire_server.admission.pace import Pace
from talkwire_server.callers import Caller
from talkwire_server.engine import Call
from talkwire_server.errors import CallError, QueueFull, RequestIdInUse
from talkwire_server.settings.admission import AdmissionSettings


class Bounds(NamedTuple):
    """How many answers are generated at once, and how much may wait for that."""

    places: int
    queued: int
    size: Size

    @classmethod
    def of(cls, capacity: int, settings: AdmissionSettings) -> "Bounds":
        """Follow the settings, and where they say nothing what an engine works on at once."""
        places = settings.max_running_requests or capacity + -(-capacity // 8)
        queued = settings.max_queued_requests
        # So that overload adds half to the time of an answer, and no more.
        queued = -(-places // 2) if queued is None else queued
        tokens = settings.max_queued_tokens or 16384 * max(1, queued)
        return cls(places, queued, Size(tokens, settings.max_queued_bytes))


class State(NamedTuple):
    """What a server does just now.

    Attributes:
        bounds: Of how much it may.
        running: Chats that are answered.
        waiting: Chats that wait for a place.
        is_open: Whether chats are let in.

    """

    bounds: Bounds
    running: int
    waiting: int
    is_open: bool


class Gate(Protocol):
    """What lets calls in."""

    @property
    def waiting(self) -> int:
        """How many calls of this process wait for a place."""
        ...

    def entering(
        self, call: Call, caller: Caller, size: Size, held: int, left: float | None
    ) -> AbstractAsyncContextManager[None]:
        """Let a call in for the length of the block, or raise the `CallError` why not.

        It may wait, and be ended while it does: then it holds no places (`Call.places`). `held` are
        the tokens that its caller has fewer meanwhile, `left` the seconds until its deadline.
        """
        ...

    def counting(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Let one CountTokens in for the length of the block, beside the calls, or raise QueueFull.

        There may be as many as there are places, and of a caller as many as it may have calls.
        """
        ...

    def streaming(self, *, moves: bool) -> AbstractAsyncContextManager[bool]:
        """Count a ChatMultiplex for the length of the block; false if it should move, and can."""
        ...

    async def abort(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside, if it is the caller's own as far as anybody can tell."""
        ...

    def refuse(self, refusal: Callable[[], CallError]) -> None:
        """Send all calls of this process away who wait."""
        ...


class LocalGate:
    """The gate itself."""

    def __init__(self, bounds: Bounds, settings: AdmissionSettings) -> None:
        pace = Pace()
        self._places = bounds.places
        self._most_counting = settings.max_running_per_caller or bounds.places
        self._door = Door(*bounds, pace)
        self._accounts = Accounts(settings, pace)
        self._inside: dict[str, tuple[Call, Caller]] = {}
        self._counting = Counter[str]()

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return self._door.waiting

    @property
    def running(self) -> int:
        """How many calls are inside, but for those that wait."""
        return len(self._inside) - self._door.waiting

    @asynccontextmanager
    async def entering(
        self, call: Call, caller: Caller, size: Size, held: int, left: float | None
    ) -> AsyncIterator[None]:
        """Let a call in for the length of the block, or raise the `CallError` why not."""
        if call.id in self._inside:
            raise RequestIdInUse(call.id)
        with self._accounts.charging(caller, call, held):
            self._inside[call.id] = call, caller
            try:
                await self._door.enter(call, caller, size, self._accounts.weights, left)
                yield
            finally:
                self._door.leave(call)
                del self._inside[call.id]

    @asynccontextmanager
    async def counting(self, caller: Caller) -> AsyncIterator[None]:
        """Let one CountTokens in for the length of the block, or raise QueueFull."""
        most = caller.max_running or self._most_counting
        if self._counting.total() >= self._places or self._counting[caller.name] >= most:
            raise QueueFull
        self._counting[caller.name] += 1
        try:
            yield
        finally:
            self._counting[caller.name] -= 1
            self._counting += Counter()  # forgets those that have none

    def streaming(self, *, moves: bool) -> AbstractAsyncContextManager[bool]:  # noqa: ARG002
        """Let it be: there is but this process."""
        return nullcontext(enter_result=True)

    async def abort(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside, if it is the caller's own as far as anybody can tell."""
        call, owner = self._inside.get(call_id, (None, caller))
        own = caller.name == owner.name or (caller.is_address and owner.is_address)
        if call and own:
            call.end(pb.FINISH_REASON_ABORTED)
            return True
        return False

    def refuse(self, refusal: Callable[[], CallError]) -> None:
        """Send all away who wait."""
        self._door.refuse(refusal)
