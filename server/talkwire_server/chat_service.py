"""ChatService: one way from a request to its deltas, and the rpcs that send them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import NoReturn

from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.admission import Admission, request_id
from talkwire_server.engine import Delta, Engine
from talkwire_server.errors import Unimplemented
from talkwire_server.statuses import Context, statuses


class ChatService(chat_pb2_grpc.ChatServiceServicer):
    """Answers chats."""

    def __init__(self, engine: Engine, admission: Admission) -> None:
        self._engine = engine
        self._admission = admission

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        """Answer in one message: the fold of what `ChatStream` would have sent."""
        answer = Accumulator()
        async with self._deltas(request, context, final_only=True) as deltas:
            async for delta in deltas:
                answer.add(delta)
        return answer.response

    async def ChatStream(
        self, request: pb.ChatRequest, context: Context
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        """Answer piece by piece. However this ends, the engine's generator is closed."""
        async with self._deltas(request, context) as deltas:
            async for delta in deltas:
                yield delta

    async def ChatMultiplex(self, _requests: object, context: Context) -> NoReturn:  # type: ignore[override]
        """Refuse: not implemented yet."""
        async with statuses(context):
            raise Unimplemented

    async def CountTokens(self, _request: object, context: Context) -> NoReturn:
        """Refuse: not implemented yet."""
        async with statuses(context):
            raise Unimplemented

    async def Abort(self, _request: object, context: Context) -> NoReturn:
        """Refuse: not implemented yet."""
        async with statuses(context):
            raise Unimplemented

    @asynccontextmanager
    async def _deltas(
        self, request: pb.ChatRequest, context: Context, *, final_only: bool = False
    ) -> AsyncIterator[AsyncGenerator[Delta]]:
        call_id = request_id(request, _metadata(context, "x-request-id"))
        async with statuses(context, call_id):
            with self._admission.enter(call_id, request, final_only=final_only) as call:
                # Admitted: from here on a retry by the client's channel would run it twice.
                await context.send_initial_metadata((("x-request-id", call_id),))
                async with aclosing(self._engine.stream(call)) as deltas:
                    yield deltas


def _metadata(context: Context, key: str) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return ""
