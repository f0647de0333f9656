"""ChatService: one way from a request to its deltas, and the rpcs that send them."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.admission import Admission, request_id
from talkwire_server.answers import Answers
from talkwire_server.callers import Caller, caller, caller_anew
from talkwire_server.checks import refuse_unknown
from talkwire_server.engine import Delta, Engine
from talkwire_server.errors import Crowded, InvalidRequest, Violation
from talkwire_server.journal import Journal
from talkwire_server.multiplex import Multiplex
from talkwire_server.open_calls import OpenCall, OpenCalls
from talkwire_server.outbox import Place
from talkwire_server.statuses import Context, statuses
from talkwire_server.trace_context import TraceContext, of_metadata

MOVES = "x-talkwire-moves"
"""Metadata of a ChatMultiplex whose client would open another connection for it."""


class ChatService(chat_pb2_grpc.ChatServiceServicer):
    """Answers chats."""

    def __init__(
        self, engine: Engine, admission: Admission, open_calls: OpenCalls, journal: Journal
    ) -> None:
        self._engine = engine
        self._admission = admission
        self._answers = Answers(engine, admission, journal)
        self._open_calls = open_calls

    async def Chat(self, request: pb.ChatRequest, context: Context) -> pb.ChatResponse:
        """Answer in one message: the fold of what `ChatStream` would have sent."""
        answer = Accumulator()
        async with self._deltas(request, context, final_only=True) as (deltas, _):
            async for delta in deltas:
                answer.add(delta)
        return answer.response

    async def ChatStream(  # type: ignore[override]  # a coroutine that writes
        self, request: pb.ChatRequest, context: Context
    ) -> None:
        """Answer piece by piece. However this ends, the engine's generator is closed."""
        async with self._deltas(request, context) as (deltas, call):
            async for delta in deltas:
                await call.send(delta)

    async def ChatMultiplex(  # type: ignore[override]  # a coroutine that writes
        self, requests: AsyncIterator[pb.ChatMultiplexRequest], context: Context
    ) -> None:
        """Answer many calls at once: what an engine's step made ready goes in one message."""
        stream_id = request_id(pb.ChatRequest(), _metadata(context, "x-request-id"))
        async with self._admission.streaming(moves=bool(_metadata(context, MOVES))) as stays:
            feed = partial(self._feed, context, caller(context)) if stays else _refuse_crowded
            # As many as may be inside, and as many again, which are refused at once.
            most = 2 * self._admission.room
            multiplex = Multiplex(feed, partial(request_id, metadata_id=""), most)
            with self._open_calls.enter(context, stream_id, multiplex.said) as open_call:
                async with statuses(context, stream_id):
                    await open_call.admit()
                    await multiplex.serve(requests, open_call.send)

    async def CountTokens(
        self, request: pb.CountTokensRequest, context: Context
    ) -> pb.CountTokensResponse:
        """Make the prompt of a request, and tell how long it is."""
        chat = request.request
        call_id = request_id(chat, _metadata(context, "x-request-id"))
        async with statuses(context, call_id):
            refuse_unknown(request)
            who = caller(context)
            call = self._admission.check(call_id, chat, who)
            model = next(model for model in self._engine.models if model.id == call.model)
            async with self._admission.counting(who):
                prompt = await self._engine.render(call)
            return pb.CountTokensResponse(
                prompt_tokens=len(prompt.token_ids),
                max_context_tokens=model.max_context_tokens,
                prompt=prompt.text if request.include_prompt else "",
                token_ids=prompt.token_ids if request.include_token_ids else (),
            )

    async def Abort(self, request: pb.AbortRequest, context: Context) -> pb.AbortResponse:
        """Have a running call finish where it is."""
        async with statuses(context):
            refuse_unknown(request)
            if not request.id:
                raise InvalidRequest([Violation("id", "required", "REQUIRED")])
            found = await self._admission.abort(request.id, caller(context))
            return pb.AbortResponse(found=found)

    async def _feed(
        self,
        context: Context,
        who: Caller,
        call_id: str,
        request: pb.ChatRequest,
        trace: TraceContext,
        left: float | None,
        place: Place,
    ) -> None:
        prove = partial(caller_anew, context)  # the stream may outlive its token
        await self._answers.feed(call_id, request, who, prove, trace, left, place, place.admit)

    @asynccontextmanager
    async def _deltas(
        self, request: pb.ChatRequest, context: Context, *, final_only: bool = False
    ) -> AsyncIterator[tuple[AsyncGenerator[Delta], OpenCall]]:
        call_id = request_id(request, _metadata(context, "x-request-id"))
        with self._open_calls.enter(context, call_id) as open_call:
            who, left = caller(context), context.time_remaining()
            trace = of_metadata(context.invocation_metadata())
            begun = self._answers.begin(call_id, request, who, trace, left, final_only=final_only)
            async with statuses(context, call_id), begun as deltas:
                # Admitted: from here on a retry by the client's channel would run it twice.
                await open_call.admit()
                yield deltas, open_call


async def _refuse_crowded(*_: object) -> None:
    raise Crowded


def _metadata(context: Context, key: str) -> str:
    for name, value in context.invocation_metadata() or ():
        if name == key and isinstance(value, str):
            return value
    return ""
