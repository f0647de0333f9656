"""The asyncio client; `_sync.py` is its twin. A client belongs to one event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from talkwire._answer import Answer
from talkwire._base import ClientBase, less
from talkwire._carrier import Way
from talkwire._conversation_async import AsyncConversation
from talkwire._errors import (
    from_cancel,
    from_rpc,
    no_connection,
    task_is_cancelled,
    unheard,
    why,
)
from talkwire._foreign import HEALTH, SERVING, HealthCheckRequest
from talkwire._messages import MessageLike, Query
from talkwire._multiplex_async import AsyncMultiplexer
from talkwire._options import Incoming
from talkwire._output import reader
from talkwire._request import CallOptions, ChatOptions
from talkwire._spans import Asking
from talkwire._stream_async import AsyncStream
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub, ModelServiceStub

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub, ModelServiceAsyncStub

Response = TypeVar("Response")


class AsyncClient(ClientBase[grpc.aio.Channel]):
    """Chats with a talkwire server. See `ClientBase` for its arguments.

    async with AsyncClient("localhost:50051") as client:
        print(await client.chat("What is the capital of France?"))
    """

    async def chat(self, query: Query = "", /, **options: Unpack[CallOptions]) -> Answer:
        """Ask, and wait for the whole answer. Raises `Error`."""
        request, call = self._split(query, options)
        return await self.send(request, **call)

    def stream(self, query: Query = "", /, **options: Unpack[CallOptions]) -> AsyncStream:
        """Ask, and get the answer piece by piece: `async with client.stream("...") as stream:`."""
        request, call = self._split(query, options)
        return self.send_stream(request, **call)

    async def send(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        output: object = None,
        begun: Answer | None = None,
        resume: bool | None = None,
        within: Incoming | None = None,
    ) -> Answer:
        """Send a request of your own making, and wait for the whole answer.

        `output` is the type that `Answer.parsed` shall be of; `begun` is the answer that the
        request's continuation goes on with, if both shall be one; for the others see `CallOptions`.
        Raises `Error`.
        """
        if begun or within or self._resumes(resume):  # a stream can do it all
            async with self.send_stream(
                request,
                timeout=timeout,
                metadata=metadata,
                output=output,
                begun=begun,
                resume=resume,
                within=within,
            ) as stream:
                return await stream.wait()
        read = reader(output, request).whole
        with Asking(self._options, request) as asking:
            call = self._call(timeout, metadata, trace=asking.headers)
            asking.response = await self._ask(self.stub.Chat, request, call)
        return Answer(asking.response, read)

    def send_stream(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        output: object = None,
        begun: Answer | None = None,
        resume: bool | None = None,
        within: Incoming | None = None,
    ) -> AsyncStream:
        """Send a request of your own making, and get the answer piece by piece.

        `output` is the type that `Answer.parsed` shall be of; `begun` is the answer that the
        request's continuation goes on with, if both shall be one; for the others see `CallOptions`.
        """
        course = self._course(request, timeout, metadata, begun, resume, within)
        return AsyncStream(self, course, reader(output, request), within)

    async def run_tools(
        self, query: Query = "", /, *, limit: int = 10, **options: Unpack[CallOptions]
    ) -> Answer:
        """Ask, run the functions that the answer calls, and go on; see `AsyncConversation`'s."""
        messages = options.pop("messages", ())
        return await AsyncConversation(self, messages).run_tools(query, limit=limit, **options)

    def conversation(
        self, messages: Iterable[MessageLike] = (), /, **options: Unpack[ChatOptions]
    ) -> AsyncConversation:
        """Begin a conversation, or go on with one."""
        return AsyncConversation(self, messages, **options)

    async def count_tokens(
        self,
        query: Query = "",
        /,
        *,
        include_prompt: bool = False,
        include_token_ids: bool = False,
        **options: Unpack[CallOptions],
    ) -> pb.CountTokensResponse:
        """Count the tokens of a prompt; on demand show it, as the model would see it.

        Nothing is generated. Raises `Error`.
        """
        request, call = self._count(
            query, options, include_prompt=include_prompt, include_token_ids=include_token_ids
        )
        return await self._ask(self.stub.CountTokens, request, call)

    async def abort(self, request_id: str) -> bool:
        """End an answer where it is, from anywhere; its reader gets it with "aborted" and usage.

        Return whether the server had it running; of several replicas, the one that was asked.
        Raises `Error`.
        """
        request = pb.AbortRequest(id=request_id)
        return (await self._ask(self.stub.Abort, request, self._call())).found

    async def models(self) -> list[pb.Model]:
        """List the models, the default one first. Raises `Error`."""
        listed = await self._ask(self._models.ListModels, pb.ListModelsRequest(), self._call())
        return list(listed.models)

    async def model(self, id: str = "") -> pb.Model:
        """Describe a model; without a name the default one. Raises `Error`."""
        request = pb.GetModelRequest(id=id)
        return (await self._ask(self._models.GetModel, request, self._call())).model

    async def ready(self, timeout: float = 0.0) -> bool:
        """Wait up to `timeout` seconds for the server to serve; return whether it does."""
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch", **HEALTH)
        end = monotonic() + max(timeout, 0.5)
        while (left := end - monotonic()) > 0:
            call = watch(HealthCheckRequest(), wait_for_ready=True, **self._call(left))
            try:
                async for health in call:
                    if health.status == SERVING:
                        return True
                    if not timeout:
                        return False
            except grpc.RpcError:
                await asyncio.sleep(min(0.2, left))
            finally:
                call.cancel()
        return False

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel, made when first asked for."""
        if self._channel is None:
            self._channel = self._open(anew=False)
        return self._channel

    def _open(self, *, anew: bool) -> grpc.aio.Channel:
        arguments = self._options.channel_arguments(anew=anew)
        if self._options.tls:
            credentials = self._options.tls.credentials()
            return grpc.aio.secure_channel(self.target, credentials, arguments)
        return grpc.aio.insecure_channel(self.target, arguments)

    def _another(self) -> "ChatServiceAsyncStub":
        self._more.append(self._open(anew=True))
        return ChatServiceStub(self._more[-1])

    @cached_property
    def stub(self) -> "ChatServiceAsyncStub":
        """The generated stub on this client's channel, for what the client does not cover."""
        return ChatServiceStub(self.channel)

    @cached_property
    def _chat_stream(self) -> Callable[..., Any]:
        """What begins the call of a stream."""
        options = self._options
        if not options.multiplex:
            return self.stub.ChatStream
        way = Way(self.stub, self._another if self._moves else None)
        return AsyncMultiplexer(way, options.multiplex, options.retry).ChatStream

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        for channel in filter(None, (self._channel, *self._more)):
            await channel.close(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @cached_property
    def _models(self) -> "ModelServiceAsyncStub":
        return ModelServiceStub(self.channel)

    async def _ask(
        self,
        method: Callable[..., Awaitable[Response]],
        request: Message,
        call: dict[str, Any],
    ) -> Response:
        call, attempts = await self._connect(call), self._options.attempts
        while True:
            begin = monotonic()
            try:
                return await method(request, **call)
            except grpc.RpcError as cause:
                error = from_rpc(cause, self.target)
                attempts -= 1
                if not (attempts and unheard(error)):
                    raise error from cause
            except asyncio.CancelledError:
                if task_is_cancelled():
                    raise
                raise from_cancel(self.target) from None
            call = await self._connect(less(call, monotonic() - begin))

    async def _connect(
        self,
        call: dict[str, Any],
        partial: Answer | None = None,
        hold: Callable[[Any], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Wait for a connection; return the call's arguments with the time that is left.

        `hold` gets what can be cancelled meanwhile.
        """
        if not self._options.wait_for_ready or call["timeout"] == 0:
            return call
        if self.channel.get_state() is grpc.ChannelConnectivity.READY:
            return call
        begin, seconds = monotonic(), self._options.connect_wait(call["timeout"])
        try:
            async with asyncio.timeout(seconds):
                waiting = asyncio.ensure_future(self.channel.channel_ready())
                hold(waiting)
                await waiting
        except TimeoutError:
            cause = await self._cause()
            raise no_connection(self.target, seconds, cause, partial) from None
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise from_cancel(self.target, partial) from None
        await asyncio.sleep(self._options.settle(seconds))
        return less(call, monotonic() - begin)

    async def _cause(self) -> str | None:
        """Ask once more without waiting: gRPC then says why there is no connection."""
        probe = self.channel.unary_unary("/grpc.health.v1.Health/Check", **HEALTH)
        try:
            await probe(HealthCheckRequest(), timeout=0.1)
        except grpc.RpcError as error:
            return why(error)
        return None
