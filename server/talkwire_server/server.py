"""The life of a server: launch, listen, load, serve, drain, stop."""

import asyncio
import logging
import socket
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

import grpc
from grpc_channelz.v1 import channelz
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from talkwire_proto.v1 import chat_pb2, chat_pb2_grpc
from talkwire_server.admin_service import AdminPort
from talkwire_server.admission import Admission
from talkwire_server.chat_service import ChatService
from talkwire_server.decoding import Decoding
from talkwire_server.describe import add_reflection
from talkwire_server.engine import Engine, StartError
from talkwire_server.model_service import ModelService
from talkwire_server.settings import Settings
from talkwire_server.signals import Stop, stop_signals

log = logging.getLogger("talkwire")

SERVICES = tuple(
    chat_pb2.DESCRIPTOR.services_by_name[name].full_name for name in ("ChatService", "ModelService")
)


class Server:
    """A gRPC server around an engine that was launched: nothing may fork beside it any more.

    Health says SERVING from the end of `load` to the start of `drain`.
    """

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.address = settings.address(settings.port)
        self.admission = Admission(engine)
        self._settings = settings
        self._engine = engine
        self._health = health.aio.HealthServicer()  # type: ignore[attr-defined]  # not in the stubs
        self._grpc = grpc.aio.server(interceptors=[Decoding(settings)], options=_options(settings))
        chat = ChatService(engine, self.admission)
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

    async def listen(self) -> None:
        """Open the socket. Health says NOT_SERVING and chats are refused as MODEL_LOADING."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        if _is_served(self._settings.host):
            raise StartError(f"another server listens on {self.address}")
        try:
            port = self._grpc.add_insecure_port(self.address)
        except RuntimeError:
            text = f"cannot listen on {self.address}: taken, or not this machine's"
            raise StartError(text) from None
        self.address = self._settings.address(port)
        if self.admin:
            await self.admin.listen()
        await self._grpc.start()

    async def load(self) -> None:
        """Wait for the engine, then let calls in."""
        await self._engine.ready()
        self.admission.open()
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def drain(self) -> None:
        """Stop admitting, and let running calls finish within the grace."""
        await self._refuse()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await self.admission.empty()

    async def close(self) -> None:
        """Close the socket and end what still runs."""
        await self._refuse()
        await self._grpc.stop(0.05)  # so that the last health still reaches who watches it
        # stop() returns before the handlers have seen their cancellation.
        await self.admission.empty()

    async def _refuse(self) -> None:
        self.admission.close()
        if self.admin:
            await self.admin.close()
        await self._health.enter_graceful_shutdown()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", *SERVICES):
            await self._health.set(name, status)


def _is_served(host: str) -> bool:
    """Tell whether a server listens on a Unix socket, which gRPC would silently take from it."""
    if not host.startswith("unix:"):
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            return probe.connect_ex(host.removeprefix("unix:")) == 0
        except OSError:  # no path of a socket
            return False


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # a second server on the port must fail, not share it
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        # Find half-open connections, and let clients ping as often as every ten seconds.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


async def serve(settings: Settings, engine: Engine, started: float) -> int:
    """Run a server until a signal asks it to stop; return the process's exit status.

    `started` is when the process did, in `time.monotonic` seconds.

    0: stopped as asked, every call finished. 1: the engine did not start or died, or calls were
    cut at the end of the grace.
    """
    with stop_signals(on_eof=settings.stop_on_eof) as stop:
        try:
            await engine.launch()
            return await _serve(Server(settings, engine), engine, stop, started)
        except StartError as error:
            log.error("%s", error)
            return 1
        finally:
            await engine.stop()
            log.info("stopped")


async def _serve(server: Server, engine: Engine, stop: Stop, started: float) -> int:
    try:
        await server.listen()
        log.info("listening on %s; loading", server.address)
        if await _first(server.load(), stop.wait()) == 1:
            return 0
        names = ", ".join(model.id for model in engine.models)
        log.info("serving %s on %s after %.1f s", names, server.address, monotonic() - started)
        if await _first(_death(engine), stop.wait()) == 0:
            return 1
        log.info("stopping; %d calls running", server.admission.running)
        if await _first(_death(engine), server.drain()) == 0:
            return 1
        if cut := server.admission.running:
            log.warning("%d calls did not finish within the grace", cut)
        return 1 if cut else 0
    finally:
        await server.close()


async def _death(engine: Engine) -> None:
    log.error("the engine died: %s", await engine.failed())


async def _first(*steps: Coroutine[Any, Any, Any]) -> int:
    """Run steps side by side until one ends; cancel the others; return which one it was."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    first = next(task for task in tasks if task in done)
    first.result()
    return tasks.index(first)
