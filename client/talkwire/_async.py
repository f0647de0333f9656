"""The asyncio client; `_sync.py` is its twin. A client belongs to one event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from talkwire._answer import Answer
from talkwire._balance import Route
from talkwire._base import ClientBase
from talkwire._conversation_async import AsyncConversation
from talkwire._errors import Cancelled
from talkwire._foreign import SERVING
from talkwire._messages import MessageLike, Query
from talkwire._options import Incoming, less
from talkwire._output import reader
from talkwire._replica_async import AsyncReplica
from talkwire._replicas_async import AsyncReplicas
from talkwire._request import CallOptions, ChatOptions
from talkwire._spans import Asking
from talkwire._statuses import found, from_cancel, from_rpc, no_connection, task_is_cancelled
from talkwire._stream_async import AsyncStream
from talkwire_proto.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub

Response = TypeVar("Response")


class AsyncClient(ClientBase[grpc.aio.Channel, AsyncReplicas]):
    """Chats with a talkwire server. See `ClientBase` for its arguments.

    async with AsyncClient("localhost:50051") as client:
        print(await client.chat("What is the capital of France?"))
    """

    _gather = AsyncReplicas

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
        sticky: bool | str | None = None,
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
                sticky=sticky,
            ) as stream:
                return await stream.wait()
        read = reader(output, request).whole
        session = self._session(request, sticky)
        with Asking(self._options, request) as asking:
            call = self._call(timeout, metadata, trace=asking.headers, session=session)
            asking.response = await self._ask(lambda at: at.stub.Chat, request, call, session)
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
        sticky: bool | str | None = None,
    ) -> AsyncStream:
        """Send a request of your own making, and get the answer piece by piece.

        `output` is the type that `Answer.parsed` shall be of; `begun` is the answer that the
        request's continuation goes on with, if both shall be one; for the others see `CallOptions`.
        """
        course = self._course(request, timeout, metadata, begun, resume, within, sticky)
        return AsyncStream(self, course, reader(output, request), within)

    async def run_tools(
        self, query: Query = "", /, *, limit: int = 10, **options: Unpack[CallOptions]
    ) -> Answer:
        """Ask, run the functions that the answer calls, and go on; see `AsyncConversation`'s."""
        messages = options.pop("messages", ())
        return await AsyncConversation(self, messages).run_tools(query, limit=limit, **options)

    def conversation(
        self,
        messages: Iterable[MessageLike] = (),
        /,
        *,
        sticky: bool | str = True,
        **options: Unpack[ChatOptions],
    ) -> AsyncConversation:
        """Begin a conversation, or go on with one; for `sticky` see `CallOptions`."""
        return AsyncConversation(self, messages, sticky=sticky, **options)

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
        return await self._ask(lambda at: at.stub.CountTokens, request, call)

    async def abort(self, request_id: str) -> bool:
        """End an answer where it is, from anywhere; its reader gets it with "aborted" and usage.

        Return whether a server had it running: of several all are asked. Raises `Error`, but not
        for some that cannot be reached.
        """
        request = pb.AbortRequest(id=request_id)
        if not self._replicas.chooses:
            return (await self._ask(lambda at: at.stub.Abort, request, self._call())).found
        await self._replicas.known(self._options.connect_wait(None))
        replicas = self._replicas.places or [self._any]  # which says that there is none
        calls = [replica.stub.Abort(request, **self._call()) for replica in replicas]
        told: list[Any] = []
        try:
            for ended in asyncio.as_completed([_told(call) for call in calls]):
                told.append(await ended)
                if getattr(told[-1], "found", False):
                    break
        finally:
            for call in calls:
                call.cancel()  # where one had it, the others need not be awaited
        return found(told, self.target)

    async def models(self) -> list[pb.Model]:
        """List the models, the default one first. Raises `Error`."""
        request = pb.ListModelsRequest()
        listed = await self._ask(lambda at: at.models.ListModels, request, self._call())
        return list(listed.models)

    async def model(self, id: str = "") -> pb.Model:
        """Describe a model; without a name the default one. Raises `Error`."""
        request = pb.GetModelRequest(id=id)
        return (await self._ask(lambda at: at.models.GetModel, request, self._call())).model

    async def ready(self, timeout: float = 0.0) -> bool:
        """Wait up to `timeout` seconds for the server, or one of several, to serve.

        Return whether it does.
        """
        end = monotonic() + max(timeout, 0.5)
        if self._replicas.chooses:
            with suppress(TimeoutError, Cancelled):
                await self._replicas.ready(end - monotonic())
            return bool(self._replicas.serving) and not self._replicas.closed
        while (left := end - monotonic()) > 0 and not self._replicas.closed:
            call = self._replicas.places[0].health(self._call(left))
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
        """The channel, made when first asked for; of several servers, one's whose turn it is.

        Raises:
            ConnectError: The addresses of a name are not known; after `ready` they are.

        """
        return self._any.channel

    @property
    def stub(self) -> "ChatServiceAsyncStub":
        """The generated stub on this client's `channel`, for what the client does not cover."""
        return self._any.stub

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        await self._replicas.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def _any(self) -> AsyncReplica:
        if one := self._replicas.one():
            return one
        raise no_connection(self.target, 0, "its addresses are not known yet")

    async def _ask(
        self,
        method: Callable[[AsyncReplica], Callable[..., Awaitable[Response]]],
        request: Message,
        call: dict[str, Any],
        session: str = "",
    ) -> Response:
        route: Route[AsyncReplica] = Route(self._replicas, session)
        try:
            while True:
                replica, call = await self._replicas.connect(route, call)
                begin = monotonic()
                try:
                    response = await method(replica)(request, **call)
                except grpc.RpcError as cause:
                    error = from_rpc(cause, replica.address)
                    pause = route.again(error)
                    call = less(call, monotonic() - begin + (pause or 0))
                    if pause is None or call["timeout"] == 0:
                        raise error from cause
                else:
                    route.end()
                    return response
                await asyncio.sleep(pause)
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise from_cancel(self.target) from None
        finally:
            route.leave()


async def _told(call: Any) -> Any:
    try:
        return await call
    except grpc.RpcError as error:
        return error
    except asyncio.CancelledError:
        if task_is_cancelled():
            raise
        return None
