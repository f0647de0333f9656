"""A server and the connection to it, with asyncio; `_replica_sync.py` is its twin."""

import asyncio
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc

from talkwire._balance import Place
from talkwire._carrier import Way
from talkwire._foreign import HEALTH, HealthCheckRequest, check
from talkwire._multiplex_async import AsyncMultiplexer
from talkwire._options import Options
from talkwire._statuses import why
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub, ModelServiceStub

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub, ModelServiceAsyncStub


class AsyncReplica(Place):
    """A server, and the channel to it, made when first asked for."""

    def __init__(self, options: Options, address: str, channel: grpc.aio.Channel | None) -> None:
        super().__init__(address, serves=not options.several)
        self._options = options
        self._made = None if channel is None else _with_stubs(channel)
        self._moves = channel is None  # else the connection is somebody else's choice
        self._more: list[grpc.aio.Channel] = []  # that streams moved to

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel."""
        return self._all.channel

    @property
    def stub(self) -> "ChatServiceAsyncStub":
        """The generated stub of chats."""
        return self._all.chats

    @property
    def models(self) -> "ModelServiceAsyncStub":
        """The generated stub of models."""
        return self._all.models

    @cached_property
    def chat_stream(self) -> Callable[..., Any]:
        """What begins the call of a stream."""
        options = self._options
        if not options.multiplex:
            return self.stub.ChatStream
        way = Way(self.stub, self._another if self._moves else None)
        retry = None if options.several else options.retry
        return AsyncMultiplexer(way, options.multiplex, retry).ChatStream

    def health(self, call: dict[str, Any]) -> Any:
        """Watch what its health says."""
        watch = self.channel.unary_stream("/grpc.health.v1.Health/Watch", **HEALTH)
        patient = not (self._options.several and self.serves)  # else the end of it is news
        return watch(HealthCheckRequest(), wait_for_ready=patient, **call)

    async def connect(self, seconds: float, hold: Callable[[Any], None]) -> None:
        """Wait for a connection; `hold` gets what can be cancelled meanwhile.

        Raises:
            TimeoutError: There is none in so many seconds.

        """
        if self.channel.get_state() is not grpc.ChannelConnectivity.READY:
            async with asyncio.timeout(seconds):
                waiting = asyncio.ensure_future(self.channel.channel_ready())
                hold(waiting)
                await waiting

    async def cause(self) -> str | None:
        """Ask once more without waiting: gRPC then says why there is no connection."""
        probe = check(self.channel)
        try:
            await probe(HealthCheckRequest(), timeout=0.1)
        except grpc.RpcError as error:
            return why(error)
        return None

    async def close(self) -> None:
        """Close the channel; running calls are cancelled."""
        for channel in (*self._more, *([self._made.channel] if self._made else [])):
            await channel.close(None)

    @property
    def _all(self) -> "_Made":
        if self._made is None:
            self._made = _with_stubs(self._open(anew=False))
        return self._made

    def _open(self, *, anew: bool) -> grpc.aio.Channel:
        arguments = self._options.channel_arguments(self.address, anew=anew)
        if self._options.tls:
            credentials = self._options.tls.credentials()
            return grpc.aio.secure_channel(self.address, credentials, arguments)
        return grpc.aio.insecure_channel(self.address, arguments)

    def _another(self) -> "ChatServiceAsyncStub":
        self._more.append(self._open(anew=True))
        return ChatServiceStub(self._more[-1])


class _Made(NamedTuple):
    channel: grpc.aio.Channel
    chats: "ChatServiceAsyncStub"
    models: "ModelServiceAsyncStub"


def _with_stubs(channel: grpc.aio.Channel) -> _Made:
    """Make a channel's stubs while it is open: where it is not, gRPC crashes the process."""
    return _Made(channel, ChatServiceStub(channel), ModelServiceStub(channel))
