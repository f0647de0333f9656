"""Which calls may run: checks each, and has it pass the gate. Knows no sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from time import monotonic
from uuid import uuid4

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import estimates
from talkwire_server.admission.gate import Bounds, Gate, LocalGate, State
from talkwire_server.callers import Caller
from talkwire_server.checks import REQUEST_ID, violations
from talkwire_server.engine import Call, Engine
from talkwire_server.errors import (
    CallError,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    PermissionDenied,
    ShuttingDown,
    UnsupportedFeature,
    Violation,
)
from talkwire_server.settings.admission import AdmissionSettings


class Admission:
    """Closed at first (the model is loading), then open, at last closed for good (draining)."""

    def __init__(
        self, engine: Engine, settings: AdmissionSettings, gate: Gate | None = None
    ) -> None:
        bounds = Bounds.of(engine.capacity, settings)
        self._engine = engine
        self._bounds = bounds
        self.room = bounds.places + bounds.queued  # for calls inside
        self._gate = gate or LocalGate(bounds, settings)
        self._inside = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusal: Callable[[], CallError] | None = ModelLoading

    @property
    def running(self) -> int:
        """How many calls are inside, but for those that wait."""
        return self._inside - self._gate.waiting

    @property
    def waiting(self) -> int:
        """How many calls wait for a place."""
        return self._gate.waiting

    def look(self) -> State:
        """Say what there is to do just now."""
        return State(self._bounds, self.running, self.waiting, self._refusal is None)

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
        model = next(model for model in self._engine.models if model.id == call.model)
        size = estimates.size(request, model.max_context_tokens)
        held = estimates.used(call, model, size.tokens)
        with self._counted(), _time_limit(call):
            async with self._gate.entering(call, caller, size, held, left):
                yield call

    def counting(self, caller: Caller) -> AbstractAsyncContextManager[None]:
        """Let one CountTokens in for the length of the block; see `Gate`."""
        return self._gate.counting(caller)

    def streaming(self, *, moves: bool) -> AbstractAsyncContextManager[bool]:
        """Count a ChatMultiplex for the length of the block; see `Gate`."""
        return self._gate.streaming(moves=moves)

    async def abort(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside; see `Gate`."""
        return await self._gate.abort(call_id, caller)

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

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self._inside += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._idle.set()

    def _refuse(self, refusal: Callable[[], CallError]) -> None:
        self._refusal = refusal
        self._gate.refuse(refusal)

    def _too_many(self, request: pb.ChatRequest) -> Iterator[Violation]:
        most = self._bounds.places
        if request.n > most:
            yield Violation("n", f"must be <= {most}, got {request.n}", "OUT_OF_RANGE")


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
