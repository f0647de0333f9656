"""A server and the connection to it, blocking; `_replica_async.py` is its twin."""

from collections.abc import Callable
from threading import RLock
from typing import Any, NamedTuple

import grpc

from talkwire._balance import Place
from talkwire._carrier import Way
from talkwire._foreign import HEALTH, HealthCheckRequest, check
from talkwire._multiplex_sync import Multiplexer
from talkwire._options import Options
from talkwire._statuses import why
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub, ModelServiceStub


class Replica(Place):
    """A server, and the channel to it, made when first asked for.

    Attributes:
        connected: Whether there is a connection, as far as is known.

    """

    def __init__(self, options: Options, address: str, channel: grpc.Channel | None) -> None:
        super().__init__(address, serves=not options.several)
        self.connected = False
        self._options = options
        self._lock = RLock()  # of what is made once, by whichever thread asks first
        self._made = None if channel is None else _with_stubs(channel)
        self._chat_stream: Callable[..., Any] | None = None
        self._moves = channel is None  # else the connection is somebody else's choice
        self._more: list[grpc.Channel] = []  # that streams moved to

    @property
    def channel(self) -> grpc.Channel:
        """The channel."""
        return self._all.channel

    @property
    def stub(self) -> ChatServiceStub:
        """The generated stub of chats."""
        return self._all.chats

    @property
    def models(self) -> ModelServiceStub:
        """The generated stub of models."""
        return self._all.models

    @property
    def chat_stream(self) -> Callable[..., Any]:
        """What begins the call of a stream."""
        with self._lock:
            if self._chat_stream is None:
                self._chat_stream = self._carry()
            return self._chat_stream

    def _carry(self) -> Callable[..., Any]:
        options = self._options
        if not options.multiplex:
            return self.stub.ChatStream
        way = Way(self.stub, self._another if self._moves else None)
        retry = None if options.several else options.retry
        return Multiplexer(way, options.multiplex, retry).ChatStream

    def health(self, call: dict[str, Any]) -> Any:
        """Watch what its health says."""
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch", **HEALTH)
        patient = not (self._options.several and self.serves)  # else the end of it is news
        return watch(HealthCheckRequest(), wait_for_ready=patient, **call)

    def connect(self, seconds: float, hold: Callable[[Any], None]) -> None:
        """Wait for a connection; `hold` gets what can be cancelled meanwhile.

        Raises:
            TimeoutError: There is none in so many seconds.

        """
        if self.connected:
            return
        # Whatever is answered shows that there is a connection; the health itself is not asked.
        probe = check(self.channel)
        try:
            waiting = probe.future(HealthCheckRequest(), timeout=seconds, wait_for_ready=True)
            hold(waiting)
            waiting.result()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError from None
        self.connected = True

    def cause(self) -> str | None:
        """Ask once more without waiting: gRPC then says why there is no connection."""
        probe = check(self.channel)
        try:
            probe(HealthCheckRequest(), timeout=0.1)
        except grpc.RpcError as error:
            return why(error)
        return None

    def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        with self._lock:
            channels = [*self._more, *([self._made.channel] if self._made else [])]
        for channel in channels:  # it waits for call-backs, which may want the lock
            channel.close()

    @property
    def _all(self) -> "_Made":
        with self._lock:
            if self._made is None:
                self._made = _with_stubs(self._open(anew=False))
            return self._made

    def _open(self, *, anew: bool) -> grpc.Channel:
        arguments = self._options.channel_arguments(self.address, anew=anew)
        if self._options.tls:
            credentials = self._options.tls.credentials()
            return grpc.secure_channel(self.address, credentials, arguments)
        return grpc.insecure_channel(self.address, arguments)

    def _another(self) -> ChatServiceStub:
        with self._lock:
            self._more.append(self._open(anew=True))
            return ChatServiceStub(self._more[-1])


class _Made(NamedTuple):
    channel: grpc.Channel
    chats: ChatServiceStub
    models: ModelServiceStub


def _with_stubs(channel: grpc.Channel) -> _Made:
    """Make a channel's stubs while it is open: where it is not, gRPC crashes the process."""
    return _Made(channel, ChatServiceStub(channel), ModelServiceStub(channel))
