"""The blocking client; `_async.py` is its twin. A client may be shared by threads."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from time import monotonic, sleep
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from talkwire._answer import Answer
from talkwire._base import ClientBase, less
from talkwire._carrier import Way
from talkwire._conversation_sync import Conversation
from talkwire._errors import ConnectError, Error, from_cancel, from_rpc, no_connection, unheard, why
from talkwire._foreign import HEALTH, SERVING, HealthCheckRequest
from talkwire._messages import MessageLike, Query
from talkwire._multiplex_sync import Multiplexer
from talkwire._options import Incoming
from talkwire._output import reader
from talkwire._request import CallOptions, ChatOptions
from talkwire._spans import Asking
from talkwire._stream_sync import Stream
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub, ModelServiceStub

Response = TypeVar("Response")


class Client(ClientBase[grpc.Channel]):
    """Chats with a talkwire server. See `ClientBase` for its arguments.

    with Client("localhost:50051") as client:
        print(client.chat("What is the capital of France?"))
    """

    _connected = _closed = False

    def chat(self, query: Query = "", /, **options: Unpack[CallOptions]) -> Answer:
        """Ask, and wait for the whole answer. Raises `Error`."""
        request, call = self._split(query, options)
        return self.send(request, **call)

    def stream(self, query: Query = "", /, **options: Unpack[CallOptions]) -> Stream:
        """Ask, and get the answer piece by piece: `with client.stream("...") as stream:`."""
        request, call = self._split(query, options)
        return self.send_stream(request, **call)

    def send(
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
            with self.send_stream(
                request,
                timeout=timeout,
                metadata=metadata,
                output=output,
                begun=begun,
                resume=resume,
                within=within,
            ) as stream:
                return stream.wait()
        read = reader(output, request).whole
        with Asking(self._options, request) as asking:
            call = self._call(timeout, metadata, trace=asking.headers)
            asking.response = self._ask(self.stub.Chat, request, call)
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
    ) -> Stream:
        """Send a request of your own making, and get the answer piece by piece.

        `output` is the type that `Answer.parsed` shall be of; `begun` is the answer that the
        request's continuation goes on with, if both shall be one; for the others see `CallOptions`.
        """
        course = self._course(request, timeout, metadata, begun, resume, within)
        return Stream(self, course, reader(output, request), within)

    def run_tools(
        self, query: Query = "", /, *, limit: int = 10, **options: Unpack[CallOptions]
    ) -> Answer:
        """Ask, run the functions that the answer calls, and go on; see `Conversation`'s."""
        messages = options.pop("messages", ())
        return Conversation(self, messages).run_tools(query, limit=limit, **options)

    def conversation(
        self, messages: Iterable[MessageLike] = (), /, **options: Unpack[ChatOptions]
    ) -> Conversation:
        """Begin a conversation, or go on with one."""
        return Conversation(self, messages, **options)

    def count_tokens(
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
        return self._ask(self.stub.CountTokens, request, call)

    def abort(self, request_id: str) -> bool:
        """End an answer where it is, from anywhere; its reader gets it with "aborted" and usage.

        Return whether the server had it running; of several replicas, the one that was asked.
        Raises `Error`.
        """
        request = pb.AbortRequest(id=request_id)
        return self._ask(self.stub.Abort, request, self._call()).found

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
            call = watch(HealthCheckRequest(), wait_for_ready=True, **self._call(left))
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
            self._channel = self._open(anew=False)
        return self._channel

    def _open(self, *, anew: bool) -> grpc.Channel:
        arguments = self._options.channel_arguments(anew=anew)
        if self._options.tls:
            credentials = self._options.tls.credentials()
            return grpc.secure_channel(self.target, credentials, arguments)
        return grpc.insecure_channel(self.target, arguments)

    def _another(self) -> ChatServiceStub:
        self._more.append(self._open(anew=True))
        return ChatServiceStub(self._more[-1])

    @cached_property
    def stub(self) -> ChatServiceStub:
        """The generated stub on this client's channel, for what the client does not cover."""
        return ChatServiceStub(self.channel)

    @cached_property
    def _chat_stream(self) -> Callable[..., Any]:
        """What begins the call of a stream."""
        options = self._options
        if not options.multiplex:
            return self.stub.ChatStream
        way = Way(self.stub, self._another if self._moves else None)
        return Multiplexer(way, options.multiplex, options.retry).ChatStream

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._closed = True
        for channel in filter(None, (self._channel, *self._more)):
            channel.close()

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
        call, attempts = self._connect(call), self._options.attempts
        while True:
            begin = monotonic()
            try:
                return method(request, **call)
            except grpc.RpcError as cause:
                error = self._error(cause)
                attempts -= 1
                if not (attempts and unheard(error)):
                    raise error from cause
            call = self._connect(less(call, monotonic() - begin))

    def _connect(
        self,
        call: dict[str, Any],
        partial: Answer | None = None,
        hold: Callable[[Any], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Wait for a connection; return the call's arguments with the time that is left.

        `hold` gets what can be cancelled meanwhile.
        """
        if self._connected or not self._options.wait_for_ready or call["timeout"] == 0:
            return call
        # Whatever is answered shows that there is a connection; the health itself is not asked.
        begin, seconds = monotonic(), self._options.connect_wait(call["timeout"])
        probe = self.channel.unary_unary("/grpc.health.v1.Health/Check", **HEALTH)
        try:
            waiting = probe.future(HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
            hold(waiting)
            waiting.result()
        except grpc.FutureCancelledError:
            raise from_cancel(self.target, partial) from None
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                cause = self._cause()
                raise no_connection(self.target, seconds, cause, partial) from None
        sleep(self._options.settle(seconds))
        self._connected = True
        return less(call, monotonic() - begin)

    def _cause(self) -> str | None:
        """Ask once more without waiting: gRPC then says why there is no connection."""
        probe = self.channel.unary_unary("/grpc.health.v1.Health/Check", **HEALTH)
        try:
            probe(HealthCheckRequest(), timeout=0.1)
        except grpc.RpcError as error:
            return why(error)
        return None

    def _error(self, error: grpc.RpcError, partial: Answer | None = None) -> Error:
        if self._closed:
            return from_cancel(self.target, partial)
        made = from_rpc(error, self.target, partial)
        self._connected = self._connected and not isinstance(made, ConnectError)
        return made
