"""A gRPC server around an engine: listen, load, drain, close. Knows no signals."""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2_grpc

from talkwire_proto.v1 import chat_pb2, chat_pb2_grpc
from talkwire_server.admin_service import AdminPort
from talkwire_server.admission import Admission, Gate
from talkwire_server.chat_service import ChatService
from talkwire_server.decoding import Decoding
from talkwire_server.describe import add_reflection
from talkwire_server.engine import Engine, StartError
from talkwire_server.errors import CallError, EngineDead, ShuttingDown
from talkwire_server.health import NOT_SERVING, SERVING, Health
from talkwire_server.journal import Journal
from talkwire_server.listener import listener
from talkwire_server.model_service import ModelService
from talkwire_server.open_calls import OpenCalls
from talkwire_server.security import tls
from talkwire_server.security.guard import Guard
from talkwire_server.settings import Settings
from talkwire_server.telemetry import call_metrics, metrics_port, readers
from talkwire_server.transit import Transit

DAY = 86_400.0  # longer than any grace

SERVICES = tuple(
    chat_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("ChatService", "ModelService")
)


class Server:
    """A gRPC server around an engine that was launched: nothing may fork beside it any more.

    Health says SERVING from the end of `load` to the start of `drain`. A gate is given where
    others have calls, too, that count.
    """

    def __init__(self, settings: Settings, engine: Engine, gate: Gate | None = None) -> None:
        self.address = settings.address(settings.port)
        self.admission = Admission(engine, settings, gate)
        self._settings = settings
        self._engine = engine
        self._health = Health(SERVICES)
        self._guards = [Guard(settings)] if settings.wants_tokens else []
        self._transit = Transit(settings)
        self._call_metrics = call_metrics(settings)
        self.metrics = None if gate else metrics_port(settings, self.admission.look)
        self._grpc = listener(
            interceptors=[
                *self._call_metrics,
                self._transit,
                *self._guards,
                Decoding(settings),
            ],
            options=_options(settings, self.admission.room),
        )
        self._open_calls = OpenCalls(settings.slow_reader_timeout)
        self._tasks: list[asyncio.Task[None]] = []
        journal = Journal([*readers(settings)])
        chat = ChatService(engine, self.admission, self._open_calls, journal)
        chat_pb2_grpc.add_ChatServiceServicer_to_server(chat, self._grpc)
        chat_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(engine), self._grpc)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        names = [*SERVICES, health.SERVICE_NAME]
        if settings.channelz:
            names.append("grpc.channelz.v1.Channelz")
            channelz.add_channelz_servicer(self._grpc)  # type: ignore[arg-type]  # takes both
        if settings.reflection:
            add_reflection(names, self._grpc)
        self.admin: AdminPort | None = None
        if settings.admin_port is not None:
            self.admin = AdminPort(engine, settings.admin_port, reflection=settings.reflection)

    @property
    def models(self) -> Sequence[chat_pb2.Model]:
        """The models that it serves."""
        return self._engine.models

    @property
    def running(self) -> int:
        """How many calls run."""
        return self.admission.running

    async def listen(self) -> None:
        """Open the socket. Health says NOT_SERVING and chats are refused as MODEL_LOADING."""
        if _is_served(self._settings.host):
            raise StartError(f"another server listens on {self.address}")
        for guard in self._guards:
            await guard.load()
        credentials = tls.credentials(self._settings)
        try:
            port = (
                self._grpc.add_secure_port(self.address, credentials)
                if credentials
                else self._grpc.add_insecure_port(self.address)
            )
        except RuntimeError:
            text = f"cannot listen on {self.address}: taken, or not this machine's"
            raise StartError(text) from None
        self.address = self._settings.address(port)
        if self.admin:
            await self.admin.listen()
        if self.metrics:
            await self.metrics.listen()
        await self._grpc.start()
        watches = [self._open_calls.watch_readers(), self._transit.watch()]
        for watch in (*watches, *(one.watch() for one in self._call_metrics)):
            self._tasks.append(asyncio.create_task(watch))

    async def load(self) -> None:
        """Wait for the engine, then let calls in."""
        await self._engine.ready()
        self.open()

    def open(self) -> None:
        """Let calls in."""
        self.admission.open()
        self._health.set(SERVING)

    async def unload(self) -> None:
        """End all calls, because the engine died; refuse others until `load`."""
        self.admission.reload()
        self._health.set(NOT_SERVING)
        await self._open_calls.cut(EngineDead())

    async def drain(self) -> None:
        """Leave without a loss: tell by health, then let running calls finish within the grace."""
        self._health.leave()
        await asyncio.sleep(self._settings.lame_duck)
        await self._refuse()
        # Sends GOAWAY, so that clients take their next calls elsewhere; `close` ends the rest.
        self._tasks.append(asyncio.create_task(self._grpc.stop(DAY)))
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await self.admission.empty()

    async def close(self, error: CallError | None = None) -> None:
        """Close the socket and end what still runs, with an error or as SHUTTING_DOWN."""
        await self._refuse()
        await self._open_calls.cut(error or ShuttingDown())
        await self._grpc.stop(0.05)  # so that the last health still reaches who watches it
        # stop() returns before the handlers have seen their cancellation.
        await self.admission.empty()
        for task in self._tasks:
            task.cancel()
        if self.metrics:
            await self.metrics.close()

    async def _refuse(self) -> None:
        self.admission.close()
        if self.admin:
            await self.admin.close()
        self._health.leave()


def _is_served(host: str) -> bool:
    """Tell whether a server listens on a Unix socket, which gRPC would silently take from it."""
    if not host.startswith("unix:"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            return probe.connect_ex(host.removeprefix("unix:")) == 0
        except OSError:  # no path of a socket
            return False


def _options(settings: Settings, room: int) -> list[tuple[str, int]]:
    return [
        # A second server on the port must fail, not share it.
        ("grpc.so_reuseport", int(settings.frontends > 1)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # What is beyond waits at the client, unseen, or is refused without a word.
        ("grpc.max_concurrent_streams", settings.max_concurrent_streams or max(1000, 2 * room)),
        # Else gRPC takes up to 16 MiB that nobody asked for, of each stream.
        ("grpc.http2.bdp_probe", 0),
        # One limit, where gRPC has two and refuses at random what is between them.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.server_handshake_timeout_ms", int(settings.handshake_timeout * 1000)),
        # Find half-open connections, and let clients ping as often as every ten seconds.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.ping_timeout_ms", 10_000),  # else 60 s, where the kernel answers for a client
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]
