"""The life of a server: launch, load, serve, start anew an engine that died, drain, leave."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import NoReturn

from talkwire_server.engine import Core, Engine, StartError
from talkwire_server.errors import EngineDead
from talkwire_server.frontends import Supervisor
from talkwire_server.logs import log_unhandled
from talkwire_server.server import Server
from talkwire_server.settings import Settings
from talkwire_server.signals import Stop, stop_signals
from talkwire_server.steps import first

log = logging.getLogger("talkwire")

HOUR = 3600.0


class EngineDied(Exception):
    """The engine died while it served. The message is one line for the operator."""


async def serve(
    settings: Settings,
    engine: Engine | Core,
    make: Callable[[], Server | Supervisor],
    started: float,
) -> int:
    """Run a server until a signal asks it to stop; return the process's exit status.

    `make` makes it, once its engine is launched. `started` is when the process did, in
    `time.monotonic` seconds.

    0: stopped as asked, every call finished. 1: the engine did not start or died, or calls were
    cut at the end of the grace.
    """
    if not settings.log_texts:
        asyncio.get_running_loop().set_exception_handler(log_unhandled)
    with stop_signals(on_eof=settings.stop_on_eof) as stop:
        try:
            await engine.launch()
            return await _serve(settings, engine, make(), stop, started)
        except (StartError, EngineDied) as error:
            fail(settings, str(error))
            return 1
        finally:
            await engine.stop()
            log.info("stopped")


def fail(settings: Settings, reason: str) -> None:
    """Say in the log, and in the termination log if there is one, why the server failed."""
    log.error("%s", reason)
    if settings.termination_log:
        try:
            Path(settings.termination_log).write_text(f"{reason}\n", encoding="utf-8")
        except OSError as error:
            log.error("--termination-log: %s", error)


async def _serve(
    settings: Settings,
    engine: Engine | Core,
    server: Server | Supervisor,
    stop: Stop,
    started: float,
) -> int:
    restarts = _Restarts(settings.restart_engine)
    if settings.exposed:
        log.warning("%s", settings.exposed)
    try:
        await server.listen()
        log.info("listening on %s; loading", server.address)
        while True:
            try:
                if await first(server.load(), stop.wait(), _death(engine)) == 1:
                    return 0
                names = ", ".join(model.id for model in server.models)
                seconds = monotonic() - started
                log.info("serving %s on %s after %.1f s", names, server.address, seconds)
                await first(_death(engine), stop.wait())
            except EngineDied as death:
                if not restarts.one_more():
                    raise
                log.error("%s; starting it anew", death)
                started = monotonic()
                await server.unload()
                await engine.stop()
                await engine.launch()
            else:
                return await _leave(server, engine)
    except EngineDied:
        await server.close(EngineDead())
        raise
    finally:
        await server.close()


async def _leave(server: Server | Supervisor, engine: Engine | Core) -> int:
    log.info("stopping; %d calls running", server.running)
    await first(_death(engine), server.drain())
    cut = server.running
    if cut:
        log.warning("%d calls did not finish within the grace", cut)
    return 1 if cut else 0


async def _death(engine: Engine | Core) -> NoReturn:
    raise EngineDied(f"the engine died: {await engine.failed()}")


class _Restarts:
    """How often an engine was started anew within the last hour."""

    def __init__(self, most: int) -> None:
        self._times: deque[float] = deque(maxlen=most)

    def one_more(self) -> bool:
        """Count one more, if that is not too many."""
        times, now = self._times, monotonic()
        if times.maxlen == 0 or (len(times) == times.maxlen and now - times[0] < HOUR):
            return False
        times.append(now)
        return True
