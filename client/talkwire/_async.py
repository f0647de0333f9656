"""The asyncio client; `_sync.py` is its twin. A client belongs to one event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from talkwire._answer import Answer, Chunk
from talkwire._base import ClientBase, StreamBase, less
from talkwire._conversation import Transcript
from talkwire._errors import OUTSIDE_WITH, from_cancel, from_rpc, no_connection
from talkwire._foreign import HEALTH, SERVING, HealthCheckRequest
from talkwire._request import CallOptions, ChatOptions, MessageLike
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

    async def chat(self, query: str = "", /, **options: Unpack[CallOptions]) -> Answer:
        """Ask, and wait for the whole answer. Raises `Error`."""
        request, call = self._split(query, options)
        return await self.send(request, **call)

    def stream(self, query: str = "", /, **options: Unpack[CallOptions]) -> "AsyncStream":
        """Ask, and get the answer piece by piece: `async with client.stream("...") as stream:`."""
        request, call = self._split(query, options)
        return self.send_stream(request, **call)

    async def send(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request of your own making, and wait for the whole answer. Raises `Error`."""
        return Answer(await self._ask(self.stub.Chat, request, self._call(timeout, metadata)))

    def send_stream(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "AsyncStream":
        """Send a request of your own making, and get the answer piece by piece."""

        async def start() -> Any:
            call = await self._connect(self._call(timeout, metadata))
            return self.stub.ChatStream(request, **call)

        return AsyncStream(start, self.target)

    def conversation(
        self, messages: Iterable[MessageLike] = (), /, **options: Unpack[ChatOptions]
    ) -> "AsyncConversation":
        """Begin a conversation, or go on with one."""
        return AsyncConversation(self, messages, **options)

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
            call = watch(HealthCheckRequest(), timeout=left, wait_for_ready=True)
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
            arguments = self._options.channel_arguments()
            if self._options.tls:
                credentials = self._options.tls.credentials()
                self._channel = grpc.aio.secure_channel(self.target, credentials, arguments)
            else:
                self._channel = grpc.aio.insecure_channel(self.target, arguments)
        return self._channel

    @cached_property
    def stub(self) -> "ChatServiceAsyncStub":
        """The generated stub on this client's channel, for what the client does not cover."""
        return ChatServiceStub(self.channel)

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        if self._channel is not None:
            await self._channel.close(None)

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
        call = await self._connect(call)
        try:
            return await method(request, **call)
        except grpc.RpcError as error:
            raise from_rpc(error, self.target) from error
        except asyncio.CancelledError:
            if _task_is_cancelled():
                raise
            raise from_cancel(self.target) from None

    async def _connect(self, call: dict[str, Any]) -> dict[str, Any]:
        """Wait for a connection; return the call's arguments with the time that is left."""
        if not self._options.wait_for_ready:
            return call
        begin, seconds = monotonic(), self._options.connect_wait(call["timeout"])
        try:
            async with asyncio.timeout(seconds):
                await self.channel.channel_ready()
        except TimeoutError:
            raise no_connection(self.target, seconds) from None
        return less(call, monotonic() - begin)


class AsyncStream(StreamBase, AsyncIterator[Chunk]):
    """An answer as it is generated.

    The call starts where the `async with` block is entered. Wherever and however the block is left
    before the end, the call is cancelled on the server.

        async with client.stream("Tell me a story.") as stream:
            async for chunk in stream:
                print(chunk, end="", flush=True)
    """

    def __init__(self, start: Callable[[], Awaitable[Any]], target: str) -> None:
        super().__init__()
        self._start = start
        self._target = target

    async def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        async for _ in self:
            pass
        return self.answer

    async def __aenter__(self) -> Self:
        self._call = await self._start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._call is None:
            raise RuntimeError(OUTSIDE_WITH.format("async with"))
        try:
            delta = await self._call.read()
        except grpc.RpcError as error:
            raise from_rpc(error, self._target, self.answer) from error
        except asyncio.CancelledError:
            if _task_is_cancelled():
                raise
            raise from_cancel(self._target, self.answer) from None
        if delta is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
            raise StopAsyncIteration
        self._answer.add(delta)
        return Chunk(delta)


class AsyncConversation(Transcript):
    """A conversation with a client: each turn sends the history and is added to it."""

    def __init__(
        self, client: AsyncClient, items: Iterable[MessageLike] = (), **options: Unpack[ChatOptions]
    ) -> None:
        super().__init__(items, **options)
        self._client = client

    async def send(self, query: str, **options: Unpack[CallOptions]) -> Answer:
        """Say something, and wait for the whole answer. A failed turn changes nothing."""
        answer = await self._client.chat(query, **self._turn(options))
        self.add(query, answer)
        return answer

    @asynccontextmanager
    async def stream(
        self, query: str, **options: Unpack[CallOptions]
    ) -> AsyncIterator[AsyncStream]:
        """Say something, and get the answer piece by piece.

        The turn is added when the answer has come to its end; one that is left early is not
        (`add` it, if it shall be kept).
        """
        async with self._client.stream(query, **self._turn(options)) as stream:
            yield stream
        if (answer := stream.answer).complete:
            self.add(query, answer)


def _task_is_cancelled() -> bool:
    """Tell a cancelled task from a cancelled call, which grpc.aio does not."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
