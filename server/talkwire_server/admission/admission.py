"""Which calls may run: checks each, counts them, and lets them in. Knows no sockets."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from uuid import uuid4

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import estimates
from talkwire_server.admission.accounts import Accounts
from talkwire_server.admission.door import Door
from talkwire_server.admission.fair_queue import Size
from talkwire_server.admission.pace import Pace
from talkwire_server.callers import Caller
from talkwire_server.checks import REQUEST_ID, violations
from talkwire_server.engine import Call, Engine
from talkwire_server.errors import (
    CallError,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    RequestIdInUse,
    ShuttingDown,
    UnsupportedFeature,
    Violation,
)
from talkwire_server.settings.admission import AdmissionSettings


class Admission:
    """Closed at first (the model is loading), then open, at last closed for good (draining)."""

    def __init__(self, engine: Engine, settings: AdmissionSettings) -> None:
        places = settings.max_running_requests or engine.capacity + -(-engine.capacity // 8)
        queued = settings.max_queued_requests
        # So that overload adds half to the time of an answer, and no more.
        queued = -(-places // 2) if queued is None else queued
        tokens = settings.max_queued_tokens or 16384 * max(1, queued)
        pace = Pace()
        self._engine = engine
        self.room = places + queued  # for calls inside
        self._places = places
        self._most_counting = settings.max_running_per_caller or places
        self._door = Door(places, queued, Size(tokens, settings.max_queued_bytes), pace)
        self._accounts = Accounts(settings, pace)
        self._inside: dict[str, tuple[Call, Caller]] = {}
        self._counting = Counter[str]()
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusal: Callable[[], CallError] | None = ModelLoading

    @property
    def running(self) -> int:
        """How many calls are inside, but for those that wait."""
        return len(self._inside) - self._door.waiting

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return self._door.waiting

    def open(self) -> None:
        """Let calls in."""
        self._refusal = None

    def reload(self) -> None:
        """Let nobody in until `open`: the engine is started anew."""
        self._refuse(ModelLoading)

    def close(self) -> None:
        """Let nobody in any more; those inside go on, but for those that wait."""
        self._refuse(ShuttingDown)

    async def empty(self) -> None:
        """Return when nobody is inside."""
        await self._idle.wait()

    @asynccontextmanager
    async def enter(
        self,
        call_id: str,
        request: pb.ChatRequest,
        caller: Caller,
        left: float | None = None,
        *,
        final_only: bool = False,
    ) -> AsyncIterator[Call]:
        """Let one call in for the length of the block, or raise the `CallError` why not.

        It may wait, and be ended while it does: then it holds no places (`Call.places`). `left`
        are the seconds until its deadline.
        """
        call = self.check(call_id, request, caller, final_only=final_only)
        if call_id in self._inside:
            raise RequestIdInUse(call_id)
        model = next(model for model in self._engine.models if model.id == call.model)
        size = estimates.size(request, model.max_context_tokens)
        held = estimates.used(call, model, size.tokens)
        with self._accounts.charging(caller, call, held), _time_limit(call):
            self._inside[call_id] = call, caller
            self._idle.clear()
            try:
                await self._door.enter(call, caller, size, self._accounts.weights, left)
                yield call
            finally:
                self._door.leave(call)
                del self._inside[call_id]
                if not self._inside:
                    self._idle.set()

    @contextmanager
    def counting(self, caller: Caller) -> Iterator[None]:
        """Let one CountTokens in for the length of the block, beside the calls, or raise QueueFull.

        There may be as many as there are places, and of a caller as many as it may have calls.
        """
        most = caller.max_running or self._most_counting
        if self._counting.total() >= self._places or self._counting[caller.name] >= most:
            raise QueueFull
        self._counting[caller.name] += 1
        try:
            yield
        finally:
            self._counting[caller.name] -= 1
            self._counting += Counter()  # forgets those that have none

    def check(
        self, call_id: str, request: pb.ChatRequest, caller: Caller, *, final_only: bool = False
    ) -> Call:
        """Make a call of a request that could be let in, or raise the `CallError` why not."""
        if self._refusal:
            raise self._refusal()
        if faults := [*violations(request), *self._too_many(request)]:
            raise InvalidRequest(faults)
        if features := self._engine.unsupported(request):
            raise UnsupportedFeature(features)
        models = [model.id for model in self._engine.models]
        name = request.model or models[0]
        if name not in models:
            raise ModelNotFound(name, [other for other in models if _may_ask(caller, other)])
        # No secret: ModelService lists it. So an honest caller learns what is wrong.
        if not _may_ask(caller, name):
            raise PermissionDenied(name)
        return Call(call_id, name, request, final_only)

    def running_call(self, call_id: str, caller: Caller) -> Call | None:
        """Find a call that is inside, if it is the caller's own as far as anybody can tell."""
        call, owner = self._inside.get(call_id, (None, caller))
        own = caller.name == owner.name or (caller.is_address and owner.is_address)
        return call if own else None

    def _refuse(self, refusal: Callable[[], CallError]) -> None:
        self._refusal = refusal
        self._door.refuse(refusal)

    def _too_many(self, request: pb.ChatRequest) -> Iterator[Violation]:
        if request.n > self._places:
            yield Violation("n", f"must be <= {self._places}, got {request.n}", "OUT_OF_RANGE")


def request_id(request: pb.ChatRequest, metadata_id: str) -> str:
    """Choose the id of a call: the request's, else that of its metadata, else a new one.

    An id that breaks the rules is passed over here, and named by the checks if it is the
    request's; it is never logged.
    """
    for wish in (request.request_id, metadata_id):
        if REQUEST_ID.fullmatch(wish):
            return wish
    return uuid4().hex


def _may_ask(caller: Caller, model: str) -> bool:
    return caller.models is None or model in caller.models


@contextmanager
def _time_limit(call: Call) -> Iterator[None]:
    """End the call, counted from its arrival, when its time limit is over."""
    if not call.request.HasField("time_limit"):
        yield
        return
    left = call.arrival + call.request.time_limit.ToNanoseconds() / 1e9 - monotonic()
    timer = asyncio.get_running_loop().call_later(left, call.end, pb.FINISH_REASON_TIME_LIMIT)
    try:
        yield
    finally:
        timer.cancel()
