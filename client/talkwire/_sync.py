"""The blocking client; `_async.py` is its twin. A client may be shared by threads."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from time import monotonic, sleep
from typing import Any, Self, TypeVar, Unpack

import grpc
from google.protobuf.message import Message

from talkwire._answer import Answer
from talkwire._balance import Route
from talkwire._base import ClientBase
from talkwire._conversation_sync import Conversation
from talkwire._errors import Cancelled, ConnectError, Error
from talkwire._foreign import SERVING
from talkwire._messages import MessageLike, Query
from talkwire._options import Incoming, less
from talkwire._output import reader
from talkwire._replica_sync import Replica
from talkwire._replicas_sync import Replicas
from talkwire._request import CallOptions, ChatOptions
from talkwire._spans import Asking
from talkwire._statuses import found, from_cancel, from_rpc, no_connection
from talkwire._stream_sync import Stream
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub

Response = TypeVar("Response")


class Client(ClientBase[grpc.Channel, Replicas]):
    """Chats with a talkwire server. See `ClientBase` for its arguments.

    with Client("localhost:50051") as client:
        print(client.chat("What is the capital of France?"))
    """

    _gather = Replicas

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
        sticky: bool | str | None = None,
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
                sticky=sticky,
            ) as stream:
                return stream.wait()
        read = reader(output, request).whole
        session = self._session(request, sticky)
        with Asking(self._options, request) as asking:
            call = self._call(timeout, metadata, trace=asking.headers, session=session)
            asking.response = self._ask(lambda at: at.stub.Chat, request, call, session)
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
    ) -> Stream:
        """Send a request of your own making, and get the answer piece by piece.

        `output` is the type that `Answer.parsed` shall be of; `begun` is the answer that the
        request's continuation goes on with, if both shall be one; for the others see `CallOptions`.
        """
        course = self._course(request, timeout, metadata, begun, resume, within, sticky)
        return Stream(self, course, reader(output, request), within)

    def run_tools(
        self, query: Query = "", /, *, limit: int = 10, **options: Unpack[CallOptions]
    ) -> Answer:
        """Ask, run the functions that the answer calls, and go on; see `Conversation`'s."""
        messages = options.pop("messages", ())
        return Conversation(self, messages).run_tools(query, limit=limit, **options)

    def conversation(
        self,
        messages: Iterable[MessageLike] = (),
        /,
        *,
        sticky: bool | str = True,
        **options: Unpack[ChatOptions],
    ) -> Conversation:
        """Begin a conversation, or go on with one; for `sticky` see `CallOptions`."""
        return Conversation(self, messages, sticky=sticky, **options)

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
        return self._ask(lambda at: at.stub.CountTokens, request, call)

    def abort(self, request_id: str) -> bool:
        """End an answer where it is, from anywhere; its reader gets it with "aborted" and usage.

        Return whether a server had it running: of several all are asked. Raises `Error`, but not
        for some that cannot be reached.
        """
        request = pb.AbortRequest(id=request_id)
        if not self._replicas.chooses:
            return self._ask(lambda at: at.stub.Abort, request, self._call()).found
        self._replicas.known(self._options.connect_wait(None))
        replicas = self._replicas.places or [self._any]  # which says that there is none
        ended = SimpleQueue[Any]()
        calls: list[Any] = [
            replica.stub.Abort.future(request, **self._call()) for replica in replicas
        ]
        for call in calls:
            call.add_done_callback(ended.put)
        try:
            return found((_told(ended.get()) for _ in calls), self.target)
        finally:
            for call in calls:
                call.cancel()  # where one had it, the others need not be awaited

    def models(self) -> list[pb.Model]:
        """List the models, the default one first. Raises `Error`."""
        request = pb.ListModelsRequest()
        listed = self._ask(lambda at: at.models.ListModels, request, self._call())
        return list(listed.models)

    def model(self, id: str = "") -> pb.Model:
        """Describe a model; without a name the default one. Raises `Error`."""
        request = pb.GetModelRequest(id=id)
        return self._ask(lambda at: at.models.GetModel, request, self._call()).model

    def ready(self, timeout: float = 0.0) -> bool:
        """Wait up to `timeout` seconds for the server, or one of several, to serve.

        Return whether it does.
        """
        end = monotonic() + max(timeout, 0.5)
        if self._replicas.chooses:
            with suppress(TimeoutError, Cancelled):
                self._replicas.ready(end - monotonic())
            return bool(self._replicas.serving) and not self._replicas.closed
        while (left := end - monotonic()) > 0 and not self._replicas.closed:
            call = self._replicas.places[0].health(self._call(left))
            try:
                for health in call:
                    if health.status == SERVING:
                        return True
                    if not timeout:
                        return False
            except grpc.RpcError:
                sleep(min(0.2, left))
            finally:
                call.cancel()
        return False

    @property
    def channel(self) -> grpc.Channel:
        """The channel, made when first asked for; of several servers, one's whose turn it is.

        Raises:
            ConnectError: The addresses of a name are not known; after `ready` they are.

        """
        return self._any.channel

    @property
    def stub(self) -> ChatServiceStub:
        """The generated stub on this client's `channel`, for what the client does not cover."""
        return self._any.stub

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        self._replicas.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _any(self) -> Replica:
        if one := self._replicas.one():
            return one
        raise no_connection(self.target, 0, "its addresses are not known yet")

    def _ask(
        self,
        method: Callable[[Replica], Callable[..., Response]],
        request: Message,
        call: dict[str, Any],
        session: str = "",
    ) -> Response:
        route: Route[Replica] = Route(self._replicas, session)
        try:
            while True:
                replica, call = self._replicas.connect(route, call)
                begin = monotonic()
                try:
                    with self._closing():
                        response = method(replica)(request, **call)
                except grpc.RpcError as cause:
                    error = self._error(cause, replica)
                    pause = route.again(error)
                    call = less(call, monotonic() - begin + (pause or 0))
                    if pause is None or call["timeout"] == 0:
                        raise error from cause
                else:
                    route.end()
                    return response
                sleep(pause)
        finally:
            route.leave()

    @contextmanager
    def _closing(self, partial: Answer | None = None) -> Iterator[None]:
        """Begin a call, in another thread than one that may close the client meanwhile."""
        try:
            yield
        except ValueError as error:  # of a channel that is closed
            if self._replicas.closed:
                raise from_cancel(self.target, partial) from error
            raise

    def _error(
        self, error: grpc.RpcError, replica: Replica, partial: Answer | None = None
    ) -> Error:
        if self._replicas.closed:
            return from_cancel(self.target, partial)
        made = from_rpc(error, replica.address, partial)
        replica.connected = replica.connected and not isinstance(made, ConnectError)
        return made


def _told(asking: Any) -> Any:
    try:
        return asking.result()
    except grpc.RpcError as error:
        return error
