"""The one way from a request to its deltas, whatever rpc asks. Knows no sockets and no statuses."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import Admission
from talkwire_server.callers import Caller
from talkwire_server.chunking import chunked
from talkwire_server.engine import Call, Delta, Engine, Sink, pour
from talkwire_server.journal import Journal
from talkwire_server.trace_context import TraceContext


class Answers:
    """The answers of an engine to the calls that are admitted. All raise `CallError`s only."""

    def __init__(self, engine: Engine, admission: Admission, journal: Journal) -> None:
        self._engine = engine
        self._admission = admission
        self._journal = journal

    @asynccontextmanager
    async def begin(
        self,
        call_id: str,
        request: pb.ChatRequest,
        who: Caller,
        trace: TraceContext,
        left: float | None,
        *,
        final_only: bool = False,
    ) -> AsyncIterator[AsyncGenerator[Delta]]:
        """Have a request answered for the length of the block, once it is admitted.

        `left` are the seconds until its deadline. However the block ends, the engine's generator
        is closed.
        """
        rpc = "Chat" if final_only else "ChatStream"
        with self._journal.entry(rpc, call_id, who.name, trace, left) as entry:
            async with (
                self._admission.enter(call_id, request, who, left, final_only=final_only) as call,
                self._deltas(call) as deltas,
            ):
                with entry.answering(call):
                    yield deltas

    async def feed(
        self,
        call_id: str,
        request: pb.ChatRequest,
        who: Caller,
        prove: Callable[[], Awaitable[Caller]],
        trace: TraceContext,
        left: float | None,
        sink: Sink,
        on_admission: Callable[[str], None],
    ) -> None:
        """Give the answer to a sink, if the caller can `prove` anew who it was.

        `on_admission` hears of the call's id before.
        """
        with self._journal.entry("ChatMultiplex", call_id, who.name, trace, left) as entry:
            who = await prove()
            async with self._admission.enter(call_id, request, who, left) as call:
                on_admission(call_id)
                with entry.answering(call):
                    await self._feed(call, sink)

    async def _feed(self, call: Call, sink: Sink) -> None:
        if call.places and not call.request.HasField("chunking"):
            await self._engine.feed(call, sink)
            return
        async with self._deltas(call) as deltas:
            await pour(deltas, sink)

    @asynccontextmanager
    async def _deltas(self, call: Call) -> AsyncIterator[AsyncGenerator[Delta]]:
        answer = self._engine.stream(call) if call.places else call.unbegun()
        async with aclosing(answer) as deltas:
            if call.final_only or not call.request.HasField("chunking"):
                yield deltas
                return
            async with aclosing(chunked(deltas, call.request.chunking)) as chunks:
                yield chunks
