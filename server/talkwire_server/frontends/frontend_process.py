"""A frontend as the supervisor sees it: a process, the line to it, and its calls at the gate."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from talkwire_server.admission import Gate
from talkwire_server.engine import Engine, StartError
from talkwire_server.frontends import nursery
from talkwire_server.frontends.desk import Desk
from talkwire_server.frontends.frontend import run
from talkwire_server.frontends.link import Link
from talkwire_server.frontends.messages import Beat, Do, Done
from talkwire_server.settings import Settings

log = logging.getLogger("talkwire")


class FrontendProcess:
    """One of several.

    Args:
        name: Of it.
        gate: Of the whole server.
        desks: Those of all that take calls; its own is among them from `open` to its end.
        feel: Hears how its engine does; see `Core.feel`.

    Attributes:
        pid: Its number among the machine's processes, from `start` on.
        ended: Set when the process is gone.
        status: The status with which it ended.
        lost: How many calls it had inside then.
        quiet: 0 whenever it says something, which it does each second once it is open.

    """

    def __init__(
        self, name: str, gate: Gate, desks: set[Desk], feel: Callable[[int, int], None]
    ) -> None:
        self.name = name
        self.pid = 0
        self.ended = asyncio.Event()
        self.status: int | None = None
        self.lost = 0
        self.quiet = 0
        self._desks = desks
        self._desk = Desk(gate, desks, self.tell)
        self._feel = feel
        self._done: dict[str, asyncio.Future[Done]] = {}

    async def start(self, settings: Settings, make: Callable[[], Engine]) -> None:
        """Fork it. It does nothing unasked."""
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                self._link = await Link.over(ours)
                try:
                    self._process = await nursery.fork(self.name, run, settings, make, theirs)
                except BaseException:
                    self._link.close()  # which ends it, if it began
                    raise
        except Exception as error:
            raise StartError(f"{self.name} could not be forked: {error}") from error
        self.pid = self._process.pid or 0
        self._receiving = asyncio.create_task(self._receive())

    @property
    def takes_calls(self) -> bool:
        """Whether it is open, and lives."""
        return self._desk in self._desks

    async def open(self) -> None:
        """Have it let calls in."""
        await self.do("open")
        if not self._link.closed:
            self._desks.add(self._desk)

    async def do(self, step: str, argument: Any = None) -> Any:
        """Have it take a step; return what came of it.

        Raises:
            StartError: It could not, or ended meanwhile.

        """
        done = self._done[step] = asyncio.get_running_loop().create_future()
        self.tell(Do(step, argument))
        if self.ended.is_set():
            _tell(done, self._the_end())
        answer = await done
        if answer.failure:
            raise StartError(answer.failure)
        return answer.result

    def tell(self, message: Any) -> None:
        """Tell it something, and do not wait."""
        self._link.send(message)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        if not self.ended.is_set():
            self._process.kill()

    async def _receive(self) -> None:
        try:
            async for message in self._link.receive():
                self._take(message)
        except Exception:
            log.exception("what %s said was not understood; it has to go", self.name)
        self._desks.discard(self._desk)
        self.lost = self._desk.calls
        self._desk.close()
        self._link.close()
        await asyncio.to_thread(self._process.join)
        self.status = self._process.exitcode
        self.ended.set()
        self._process.close()  # else two pipes of it stay open
        for done in self._done.values():
            _tell(done, self._the_end())

    def _take(self, message: Any) -> None:
        self.quiet = 0
        if isinstance(message, Done):
            if done := self._done.get(message.step):
                _tell(done, message)
        elif isinstance(message, Beat):
            self._feel(message.unfinished, message.steps)
        else:
            self._desk.take(message)

    def _the_end(self) -> Done:
        text = f"{self.name} ended with status {self.status} (the log above has the cause)"
        return Done("", None, text)


def _tell(done: asyncio.Future[Done], answer: Done) -> None:
    if not done.done():  # else nobody waits any more
        done.set_result(answer)
