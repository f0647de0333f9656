"""The door: which calls may run, and how many do. Knows no engine and no sockets."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import uuid4

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import REQUEST_ID, unsupported, violations
from talkwire_server.engine import Call
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

    def __init__(self, models: Sequence[pb.Model]) -> None:
        self._models = [model.id for model in models]
        self._running: set[str] = set()
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
        call = self._admit(call_id, request, final_only)
        self._running.add(call.id)
        self._idle.clear()
        try:
            yield call
        finally:
            self._running.remove(call.id)
            if not self._running:
                self._idle.set()

    def _admit(self, call_id: str, request: pb.ChatRequest, final_only: bool) -> Call:
        if self._refusal:
            raise self._refusal()
        if faults := violations(request):
            raise InvalidRequest(faults)
        if features := unsupported(request):
            raise UnsupportedFeature(features)
        if request.model and request.model not in self._models:
            raise ModelNotFound(request.model, self._models)
        if call_id in self._running:
            raise RequestIdInUse(call_id)
        return Call(call_id, request.model or self._models[0], request, final_only)


def request_id(request: pb.ChatRequest, metadata_id: str) -> str:
    """Choose the id of a call: the request's, else that of its metadata, else a new one.

    An id that breaks the rules is passed over here, and named by the checks if it is the
    request's; it is never logged.
    """
    for wish in (request.request_id, metadata_id):
        if REQUEST_ID.fullmatch(wish):
            return wish
    return uuid4().hex
