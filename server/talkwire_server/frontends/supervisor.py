"""The process that was started with `--frontends N`: it has the engine, the gate and N others.

To `talkwire_server.lifetime` it is what `talkwire_server.server.Server` is, to callers one server.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import Bounds, LocalGate, State
from talkwire_server.engine import Core, StartError
from talkwire_server.errors import CallError
from talkwire_server.frontends.desk import Desk
from talkwire_server.frontends.frontend_process import FrontendProcess
from talkwire_server.frontends.messages import Do
from talkwire_server.frontends.port import Port
from talkwire_server.settings import Settings
from talkwire_server.steps import each
from talkwire_server.telemetry import metrics_port

log = logging.getLogger("talkwire")

CLOSING = 15.0  # seconds for a frontend to end when it is told to
SILENCE = 30  # seconds after which a frontend that says nothing is lost
LOADING = 600.0  # seconds for another to load what all have loaded
PAUSE = 1.0  # seconds before a frontend is replaced that ended soon after it began


class Supervisor:
    """Several frontends that are one server.

    Args:
        settings: Those of the server.
        core: What its engines share; it was not launched yet.

    """

    def __init__(self, settings: Settings, core: Core) -> None:
        self.address = settings.address(settings.port)
        self.models: Sequence[pb.Model] = ()
        self._settings = settings
        self._core = core
        self._bounds = Bounds.of(core.capacity, settings)
        self._gate = LocalGate(self._bounds, settings)
        self._is_open = False
        self.metrics = metrics_port(settings, self._look)
        self._desks = set[Desk]()
        self._port: Port | None = None
        self._frontends: dict[int, FrontendProcess] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._lost = 0

    @property
    def running(self) -> int:
        """How many calls run, or were lost as this server left."""
        return self._gate.running + self._lost

    async def listen(self) -> None:
        """Take the port, and have all frontends open it."""
        self._port = Port(self._settings)
        self.address = self._settings.address(self._port.number)
        if self.metrics:
            await self.metrics.listen()
        count = self._settings.frontends
        # What bounds memory is shared among them.
        self._settings = replace(
            self._settings,
            port=self._port.number,
            max_slow_calls=-(-self._settings.max_slow_calls // count),
            media_cache_bytes=self._settings.media_cache_bytes // count,
        )
        await each(*(self._open(number) for number in range(count)))

    async def load(self) -> None:
        """Wait for the engine and the frontends, then let calls in."""
        await self._load()
        frontends = self._frontends.values()
        await each(*(_unless_ended(one, one.open()) for one in frontends))
        self._is_open = True
        self._keepers = [asyncio.create_task(self._keep(number)) for number in self._frontends]

    async def unload(self) -> None:
        """End all calls, because the engine died; refuse others until `load`."""
        self._let_go()
        self.models = ()
        await self._have_all("unload", CLOSING)

    async def drain(self) -> None:
        """Leave without a loss, as far as that goes."""
        self._let_go()
        draining = [one for one in self._frontends.values() if one.takes_calls]
        await self._have_all("drain", self._settings.lame_duck + self._settings.grace + CLOSING)
        for frontend in draining:
            if frontend.ended.is_set():
                log.error("%s ended with status %s", frontend.name, frontend.status)
        self._lost = sum(frontend.lost for frontend in draining)

    async def close(self, error: CallError | None = None) -> None:
        """Have all frontends end, and what still runs with them. Idempotent."""
        self._let_go()
        frontends = [*self._frontends.values()]
        for frontend in frontends:
            frontend.tell(Do("close", error))
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING):
                await asyncio.gather(*(frontend.ended.wait() for frontend in frontends))
        for frontend in frontends:
            if not frontend.ended.is_set():
                log.warning("%s did not end; it is killed", frontend.name)
                frontend.kill()
        if self._port:
            self._port.close()
        if self.metrics:
            await self.metrics.close()

    async def _load(self) -> None:
        """Have the frontends load; those that end meanwhile are replaced when calls are let in.

        An engine greets who is there as it begins, so who comes later needs to know of it.
        """
        frontends, environment = self._frontends, self._core.environment
        ended = [number for number, frontend in frontends.items() if frontend.ended.is_set()]
        await each(*(self._open(number) for number in ended))
        loads = (_unless_ended(one, one.do("load", environment)) for one in frontends.values())
        _, *models = await each(self._core.ready(), *loads)
        if not any(models):
            raise StartError("all frontends ended while they loaded (the log above has the cause)")
        self.models = next(filter(None, models))

    async def _start(self, number: int) -> FrontendProcess:
        """Have a frontend of that number, with an engine of its own."""
        name, feel = f"frontend {number}", partial(self._core.feel, number)
        frontend = FrontendProcess(name, self._gate, self._desks, feel)
        await frontend.start(self._settings, self._core.seat(number, self.models))
        self._frontends[number] = frontend
        await frontend.do("prepare")
        return frontend

    async def _open(self, number: int) -> None:
        """Have a frontend that listens before it has loaded."""
        frontend = await self._start(number)
        await frontend.do("listen")

    async def _keep(self, number: int) -> None:
        """Have another frontend whenever one ends."""
        while True:
            ended = self._frontends[number]
            await _end(ended)
            log.error("%s ended with status %s", ended.name, ended.status)
            if self.metrics:
                self.metrics.forget(ended.pid)
            try:
                async with asyncio.timeout(LOADING):
                    frontend = await self._start(number)
                    await frontend.do("load", self._core.environment)
                    await frontend.do("listen")  # only now: connections are for who answers
                    await frontend.open()
            except (StartError, TimeoutError) as error:
                log.error("no other takes its place yet: %s", error or "it does not load")
                self._frontends[number].kill()
            else:
                log.info("another takes the place of %s", ended.name)
            await asyncio.sleep(PAUSE)

    async def _have_all(self, step: str, seconds: float) -> None:
        """Have all that take calls take a step, in so many seconds; kill the others."""
        frontends = self._frontends.values()
        for frontend in frontends:
            if not frontend.takes_calls:
                frontend.kill()
        await each(*(_have(one, step, seconds) for one in frontends if one.takes_calls))

    def _look(self) -> State:
        return State(self._bounds, self._gate.running, self._gate.waiting, self._is_open)

    def _let_go(self) -> None:
        self._is_open = False
        for keeper in self._keepers:
            keeper.cancel()


async def _end(frontend: FrontendProcess) -> None:
    """Wait until a frontend that is open has ended; one that says nothing any more is killed."""
    while not frontend.ended.is_set():
        frontend.quiet += 1  # and not the time: this process may have stood still itself
        if frontend.quiet > SILENCE:
            log.error("%s said nothing for %d s; it is killed", frontend.name, SILENCE)
            frontend.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                await frontend.ended.wait()


async def _have(frontend: FrontendProcess, step: str, seconds: float) -> None:
    """Have a frontend take a step, or end."""
    try:
        async with asyncio.timeout(seconds):
            await _unless_ended(frontend, frontend.do(step))
    except TimeoutError:
        log.warning("%s does not %s; it is killed", frontend.name, step)
        frontend.kill()
        await frontend.ended.wait()


async def _unless_ended(frontend: FrontendProcess, step: Coroutine[Any, Any, Any]) -> Any:
    """Take a step; None if the frontend ends meanwhile."""
    try:
        return await step
    except StartError:
        if not frontend.ended.is_set():
            raise
        return None
