"""The blocking client; `_async.py` is its twin. A client may be shared by threads."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from talkwire._answer import Answer, Chunk
from talkwire._base import ClientBase, StreamBase, less
from talkwire._conversation import Transcript
from talkwire._errors import OUTSIDE_WITH, ConnectError, Error, from_rpc, no_connection
from talkwire._foreign import HEALTH, SERVING, HealthCheckRequest
from talkwire._request import CallOptions, ChatOptions, MessageLike
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub, ModelServiceStub

Response = TypeVar("Response")


class Client(ClientBase[grpc.Channel]):
    """Chats with a talkwire server. See `ClientBase` for its arguments.

    with Client("localhost:50051") as client:
        print(client.chat("What is the capital of France?"))
    """

    _connected = False

    def chat(self, query: str = "", /, **options: Unpack[CallOptions]) -> Answer:
        """Ask, and wait for the whole answer. Raises `Error`."""
        request, call = self._split(query, options)
        return self.send(request, **call)

    def stream(self, query: str = "", /, **options: Unpack[CallOptions]) -> "Stream":
        """Ask, and get the answer piece by piece: `with client.stream("...") as stream:`."""
        request, call = self._split(query, options)
        return self.send_stream(request, **call)

    def send(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request of your own making, and wait for the whole answer. Raises `Error`."""
        return Answer(self._ask(self.stub.Chat, request, self._call(timeout, metadata)))

    def send_stream(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> "Stream":
        """Send a request of your own making, and get the answer piece by piece."""

        def start() -> Any:
            return self.stub.ChatStream(request, **self._connect(self._call(timeout, metadata)))

        return Stream(start, self._error)

    def conversation(
        self, messages: Iterable[MessageLike] = (), /, **options: Unpack[ChatOptions]
    ) -> "Conversation":
        """Begin a conversation, or go on with one."""
        return Conversation(self, messages, **options)

    def models(self) -> list[pb.Model]:
        """List the models, the default one first. Raises `Error`."""
        listed = self._ask(self._models.ListModels, pb.ListModelsRequest(), self._call())
        return list(listed.models)

    def model(self, id: str = "") -> pb.Model:
        """Describe a model; without a name the default one. Raises `Error`."""
        return self._ask(self._models.GetModel, pb.GetModelRequest(id=id), self._call()).model

    def ready(self, timeout: float = 0.0) -> bool:
        """Wait up to `timeout` seconds for the server to serve; return whether it does."""
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch", **HEALTH)
        end = monotonic() + max(timeout, 0.5)
        while (left := end - monotonic()) > 0:
            call = watch(HealthCheckRequest(), timeout=left, wait_for_ready=True)
            try:
                for health in call:
                    if health.status == SERVING:
                        return True
                    if not timeout:
                        return False
            except grpc.RpcError:
                sleep(min(0.2, left))
            finally:
                call.cancel()  # type: ignore[no-untyped-call]
        return False

    @property
    def channel(self) -> grpc.Channel:
        """The channel, made when first asked for."""
        if self._channel is None:
            arguments = self._options.channel_arguments()
            if self._options.tls:
                credentials = self._options.tls.credentials()
                self._channel = grpc.secure_channel(self.target, credentials, arguments)
            else:
                self._channel = grpc.insecure_channel(self.target, arguments)
        return self._channel

    @cached_property
    def stub(self) -> ChatServiceStub:
        """The generated stub on this client's channel, for what the client does not cover."""
        return ChatServiceStub(self.channel)

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        if self._channel is not None:
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @cached_property
    def _models(self) -> ModelServiceStub:
        return ModelServiceStub(self.channel)

    def _ask(
        self, method: Callable[..., Response], request: Message, call: dict[str, Any]
    ) -> Response:
        call = self._connect(call)
        try:
            return method(request, **call)
        except grpc.RpcError as error:
            raise self._error(error) from error

    def _connect(self, call: dict[str, Any]) -> dict[str, Any]:
        """Wait for a connection; return the call's arguments with the time that is left."""
        if self._connected or not self._options.wait_for_ready:
            return call
        # Whatever is answered shows that there is a connection; the health itself is not asked.
        begin, seconds = monotonic(), self._options.connect_wait(call["timeout"])
        probe = self.channel.unary_unary("/grpc.health.v1.Health/Check", **HEALTH)
        try:
            probe(HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise no_connection(self.target, seconds) from None
        self._connected = True
        return less(call, monotonic() - begin)

    def _error(self, error: grpc.RpcError, partial: Answer | None = None) -> Error:
        made = from_rpc(error, self.target, partial)
        self._connected = self._connected and not isinstance(made, ConnectError)
        return made


class Stream(StreamBase, Iterator[Chunk]):
    """An answer as it is generated.

    The call starts where the `with` block is entered. Wherever and however the block is left
    before the end, the call is cancelled on the server.

        with client.stream("Tell me a story.") as stream:
            for chunk in stream:
                print(chunk, end="", flush=True)
    """

    def __init__(
        self,
        start: Callable[[], Any],
        error: Callable[[grpc.RpcError, Answer], Error],
    ) -> None:
        super().__init__()
        self._start = start
        self._error = error

    def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def __enter__(self) -> Self:
        self._call = self._start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        if self._call is None:
            raise RuntimeError(OUTSIDE_WITH.format("with"))
        try:
            delta = next(self._call)
        except grpc.RpcError as error:
            raise self._error(error, self.answer) from error
        self._answer.add(delta)
        return Chunk(delta)


class Conversation(Transcript):
    """A conversation with a client: each turn sends the history and is added to it."""

    def __init__(
        self, client: Client, items: Iterable[MessageLike] = (), **options: Unpack[ChatOptions]
    ) -> None:
        super().__init__(items, **options)
        self._client = client

    def send(self, query: str, **options: Unpack[CallOptions]) -> Answer:
        """Say something, and wait for the whole answer. A failed turn changes nothing."""
        answer = self._client.chat(query, **self._turn(options))
        self.add(query, answer)
        return answer

    @contextmanager
    def stream(self, query: str, **options: Unpack[CallOptions]) -> Iterator[Stream]:
        """Say something, and get the answer piece by piece.

        The turn is added when the answer has come to its end; one that is left early is not
        (`add` it, if it shall be kept).
        """
        with self._client.stream(query, **self._turn(options)) as stream:
            yield stream
        if (answer := stream.answer).complete:
            self.add(query, answer)
