"""The process that was started with `--frontends N`: it has the engine, the gate and N others.

To `talkwire_server.lifetime` it is what `talkwire_server.server.Server` is, to callers one server.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Sequence
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
from talkwire_server.telemetry import metrics_port

log = logging.getLogger("talkwire")

CLOSING = 15.0  # seconds for a frontend to end when it is told to
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

    @property
    def running(self) -> int:
        """How many calls run."""
        return self._gate.running

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
        await self._start_all(range(count))

    async def load(self) -> None:
        """Wait for the engine and all frontends, then let calls in."""
        ended = [number for number, one in self._frontends.items() if one.ended.is_set()]
        await self._start_all(ended)
        frontends, environment = self._frontends.values(), self._core.environment
        loading = [frontend.do("load", environment) for frontend in frontends]
        _, *models = await _all(self._core.ready(), *loading)
        self.models = models[0]
        await _all(*(frontend.open() for frontend in frontends))
        self._is_open = True
        self._keepers = [asyncio.create_task(self._keep(number)) for number in self._frontends]

    async def unload(self) -> None:
        """End all calls, because the engine died; refuse others until `load`."""
        self._let_go()
        self.models = ()
        for frontend in self._frontends.values():
            if not frontend.takes_calls:  # it is on its way to the engine that died
                frontend.kill()
        await self._each("unload")

    async def drain(self) -> None:
        """Leave without a loss, as far as that goes."""
        self._let_go()
        await self._each("drain")

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

    async def _start_all(self, numbers: Iterable[int]) -> None:
        await _all(*(self._start(number) for number in numbers))

    async def _start(self, number: int) -> FrontendProcess:
        """Have a frontend of that number that listens."""
        name, feel = f"frontend {number}", partial(self._core.feel, number)
        frontend = FrontendProcess(name, self._gate, self._desks, feel)
        await frontend.start(self._settings, self._core.seat(number, self.models))
        self._frontends[number] = frontend
        await frontend.do("listen")
        return frontend

    async def _keep(self, number: int) -> None:
        """Have another frontend whenever one ends."""
        while True:
            ended = self._frontends[number]
            await ended.ended.wait()
            log.error("%s ended with status %s", ended.name, ended.status)
            if self.metrics:
                self.metrics.forget(ended.pid)
            try:
                frontend = await self._start(number)
                await frontend.do("load", self._core.environment)
                await frontend.open()
            except StartError as error:
                log.error("no other takes its place yet: %s", error)
                self._frontends[number].kill()
            else:
                log.info("another takes the place of %s", ended.name)
            await asyncio.sleep(PAUSE)

    async def _each(self, step: str) -> None:
        """Have all take a step, but for those that end meanwhile."""
        steps = [frontend.do(step) for frontend in self._frontends.values()]
        await asyncio.gather(*map(_unless_ended, steps))

    def _look(self) -> State:
        return State(self._bounds, self._gate.running, self._gate.waiting, self._is_open)

    def _let_go(self) -> None:
        self._is_open = False
        for keeper in self._keepers:
            keeper.cancel()


async def _all(*steps: Coroutine[Any, Any, Any]) -> list[Any]:
    """Take steps side by side; where one fails, the others are left."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _unless_ended(step: Coroutine[Any, Any, Any]) -> None:
    with suppress(StartError):
        await step
