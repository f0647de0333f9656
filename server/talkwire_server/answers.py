"""The one way from a request to its deltas, whatever rpc asks. Knows no sockets and no statuses."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import Admission
from talkwire_server.callers import Caller
from talkwire_server.chunking import chunked
from talkwire_server.engine import Delta, Engine


class Answers:
    """The answers of an engine to the calls that are admitted."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission

    @asynccontextmanager
    async def begin(
        self,
        call_id: str,
        request: pb.ChatRequest,
        who: Caller,
        left: float | None,
        *,
        final_only: bool = False,
    ) -> AsyncIterator[AsyncGenerator[Delta]]:
        """Have a request answered for the length of the block, once it is admitted.

        `left` are the seconds until its deadline. However the block ends, the engine's generator
        is closed. Raises `CallError`s only, here and from the deltas.
        """
        async with self._admission.enter(
            call_id, request, who, left, final_only=final_only
        ) as call:
            answer = self._engine.stream(call) if call.places else call.unbegun()
            async with aclosing(answer) as deltas:
                if final_only or not request.HasField("chunking"):
                    yield deltas
                    return
                async with aclosing(chunked(deltas, request.chunking)) as chunks:
                    yield chunks
