"""A process that serves the port beside others like it, as the supervisor tells it to."""

import asyncio
import atexit
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import uvloop

from talkwire_server.engine import Engine, StartError
from talkwire_server.errors import CallError
from talkwire_server.frontends.link import Link
from talkwire_server.frontends.messages import Beat, Do, Done
from talkwire_server.frontends.remote_gate import RemoteGate
from talkwire_server.logs import log_unhandled, start_logging
from talkwire_server.server import Server
from talkwire_server.settings import Settings
from talkwire_server.signals import end_with_parent, leave_signals_to_parent

log = logging.getLogger("talkwire")

BEAT = 1.0  # seconds
PATIENCE = 10.0  # seconds for the supervisor to see that the engine is dead, if it is


def run(settings: Settings, make: Callable[[], Engine], line: socket.socket) -> NoReturn:
    """Be a frontend, with the engine that is made here, until the supervisor says so or ends."""
    end_with_parent()
    leave_signals_to_parent()
    start_logging(settings)
    uvloop.run(_serve(settings, make, line))
    atexit._run_exitfuncs()  # spans that are not sent yet
    os._exit(0)  # without taking an engine apart object by object


async def _serve(settings: Settings, make: Callable[[], Engine], line: socket.socket) -> None:
    if not settings.log_texts:
        asyncio.get_running_loop().set_exception_handler(log_unhandled)
    await Frontend(settings, make, await Link.over(line)).serve()


class Frontend:
    """A server whose gate and whose life are the supervisor's. Its first step is `prepare`."""

    _engine: Engine
    _server: Server

    def __init__(self, settings: Settings, make: Callable[[], Engine], link: Link) -> None:
        self._settings = settings
        self._make = make
        self._link = link
        self._gate = RemoteGate(link.send)
        self._tasks = set[asyncio.Task[None]]()
        self._watch: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()

    async def serve(self) -> None:
        """Do what the supervisor says until it says `close`, or nothing any more."""
        self._begin(self._receive())
        await self._closed.wait()

    async def prepare(self, _: None) -> None:
        """Make the engine and its server."""
        self._engine = self._make()
        self._server = Server(self._settings, self._engine, self._gate)
        self._begin(self._beat())

    async def listen(self, _: None) -> None:
        """Open the socket."""
        await self._server.listen()

    async def load(self, environment: dict[str, str]) -> Any:
        """Load the engine; return its models."""
        os.environ.update(environment)
        await self._engine.launch()
        await self._engine.ready()
        return list(self._engine.models)

    async def open(self, _: None) -> None:
        """Let calls in."""
        self._server.open()
        self._watch = asyncio.create_task(self._watch_engine())

    async def unload(self, _: None) -> None:
        """End all calls, because the engine died, and let go of it."""
        self._unwatch()
        await self._server.unload()
        await self._engine.stop()

    async def drain(self, _: None) -> None:
        """Leave without a loss, as far as that goes."""
        self._unwatch()
        await self._server.drain()

    async def close(self, error: CallError | None) -> None:
        """End what still runs, and this process."""
        self._unwatch()
        if hasattr(self, "_server"):  # else it could not even be made
            await self._server.close(error)
            await self._engine.stop()
        self._closed.set()

    async def _receive(self) -> None:
        async for message in self._link.receive():
            if isinstance(message, Do):
                self._begin(self._do(message))
            else:
                self._gate.take(message)
        self._closed.set()

    async def _do(self, asked: Do) -> None:
        try:
            result = await getattr(self, asked.step)(asked.argument)
        except StartError as error:
            self._link.send(Done(asked.step, None, str(error)))
        except Exception:
            log.exception("a frontend cannot %s", asked.step)
            os._exit(1)
        else:
            self._link.send(Done(asked.step, result))

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self._link.send(Beat(self._engine.unfinished, self._engine.steps))

    async def _watch_engine(self) -> None:
        """End, if the engine is dead for this process alone: another takes its place."""
        reason = await self._engine.failed()
        await self._server.unload()
        await asyncio.sleep(PATIENCE)
        log.error("the engine is dead for this frontend: %s", reason)
        os._exit(1)

    def _unwatch(self) -> None:
        if self._watch:
            self._watch.cancel()

    def _begin(self, doing: Any) -> None:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
