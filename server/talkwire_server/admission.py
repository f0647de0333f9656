"""The door: which calls may run, and how many do. Knows no engine and no sockets."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import REQUEST_ID, violations
from talkwire_server.engine import Call, Engine
from talkwire_server.errors import (
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    RequestIdInUse,
    ShuttingDown,
    UnsupportedFeature,
)


class Admission:
    """Closed at first (the model is loading), then open, at last closed for good (draining)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[str, Call] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._refusal: type[ModelLoading] | type[ShuttingDown] | None = ModelLoading

    @property
    def running(self) -> int:
        """How many calls are inside."""
        return len(self._running)

    def open(self) -> None:
        """Let calls in."""
        self._refusal = None

    def reload(self) -> None:
        """Let nobody in until `open`: the engine is started anew."""
        self._refusal = ModelLoading

    def close(self) -> None:
        """Let nobody in any more; those inside go on."""
        self._refusal = ShuttingDown

    async def empty(self) -> None:
        """Return when nobody is inside."""
        await self._idle.wait()

    @contextmanager
    def enter(
        self, call_id: str, request: pb.ChatRequest, *, final_only: bool = False
    ) -> Iterator[Call]:
        """Let one call in for the length of the block, or raise the `CallError` why not."""
        call = self.check(call_id, request, final_only=final_only)
        if call_id in self._running:
            raise RequestIdInUse(call_id)
        self._running[call_id] = call
        self._idle.clear()
        try:
            yield call
        finally:
            del self._running[call_id]
            if not self._running:
                self._idle.set()

    def check(self, call_id: str, request: pb.ChatRequest, *, final_only: bool = False) -> Call:
        """Make a call of a request that could be let in, or raise the `CallError` why not."""
        if self._refusal:
            raise self._refusal()
        if faults := violations(request):
            raise InvalidRequest(faults)
        if features := self._engine.unsupported(request):
            raise UnsupportedFeature(features)
        models = [model.id for model in self._engine.models]
        if request.model and request.model not in models:
            raise ModelNotFound(request.model, models)
        return Call(call_id, request.model or models[0], request, final_only)

    def running_call(self, call_id: str) -> Call | None:
        """Find a call that is inside."""
        return self._running.get(call_id)


def request_id(request: pb.ChatRequest, metadata_id: str) -> str:
    """Choose the id of a call: the request's, else that of its metadata, else a new one.

    An id that breaks the rules is passed over here, and named by the checks if it is the
    request's; it is never logged.
    """
    for wish in (request.request_id, metadata_id):
        if REQUEST_ID.fullmatch(wish):
            return wish
    return uuid4().hex
