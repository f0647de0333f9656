"""The gate that another process keeps: asked, and answered, by messages. Knows no sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from talkwire_server.admission.fair_queue import Size
from talkwire_server.callers import Caller
from talkwire_server.engine import Call
from talkwire_server.errors import CallError
from talkwire_server.frontends.messages import (
    Abort,
    Aborted,
    Count,
    End,
    Enter,
    Entered,
    Leave,
    Refused,
    Stream,
    Streams,
)


class RemoteGate:
    """See `talkwire_server.admission.Gate` for the contract.

    Args:
        send: Puts a message on its way.

    """

    def __init__(self, send: Callable[[Any], None]) -> None:
        self._send = send
        self._numbers = count()
        self._calls: dict[int, Call] = {}
        self._told: dict[int, asyncio.Future[Any]] = {}  # what is asked and not answered

    @property
    def waiting(self) -> int:
        """How many calls of this process wait for a place."""
        return len(self._told.keys() & self._calls.keys())

    @asynccontextmanager
    async def entering(
        self, call: Call, caller: Caller, size: Size, held: int, left: float | None
    ) -> AsyncIterator[None]:
        """Let a call in for the length of the block, or raise the `CallError` why not."""
        number, asked = next(self._numbers), call.request
        self._calls[number] = call
        call.on_end(lambda: self._send(End(number, call.ending)))  # an engine replaces this
        try:
            entered = await self._ask(
                Enter(
                    number,
                    call.id,
                    caller,
                    asked.n,
                    asked.priority,
                    call.arrival,
                    size,
                    held,
                    left,
                )
            )
            call.places, call.waited = entered.places, entered.waited
            yield
        finally:
            del self._calls[number]
            self._send(Leave(number, call.used))

    @asynccontextmanager
    async def counting(self, caller: Caller) -> AsyncIterator[None]:
        """Let one CountTokens in for the length of the block, or raise QueueFull."""
        async with self._during(Count(next(self._numbers), caller)):
            yield

    @asynccontextmanager
    async def streaming(self, *, moves: bool) -> AsyncIterator[bool]:
        """Count a ChatMultiplex for the length of the block; false if it should move, and can."""
        async with self._during(Stream(next(self._numbers), moves)) as answer:
            yield answer.stays

    async def abort(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside, whichever process has it."""
        answer = await self._ask(Abort(next(self._numbers), call_id, caller))
        return bool(answer.found)

    def refuse(self, refusal: Callable[[], CallError]) -> None:
        """Send all calls of this process away who wait."""
        for number in self._told.keys() & self._calls.keys():
            _tell(self._told[number], Refused(number, refusal()))

    def take(self, message: Entered | Refused | Streams | Aborted | End) -> None:
        """Take what the other process says."""
        if isinstance(message, End):
            if call := self._calls.get(message.number):
                call.end(message.reason)
        elif told := self._told.get(message.number):
            _tell(told, message)

    @asynccontextmanager
    async def _during(self, question: Count | Stream) -> AsyncIterator[Any]:
        try:
            yield await self._ask(question)
        finally:
            self._send(Leave(question.number))

    async def _ask(self, question: Enter | Count | Stream | Abort) -> Any:
        told = self._told[question.number] = asyncio.get_running_loop().create_future()
        self._send(question)
        try:
            return await told
        finally:
            del self._told[question.number]


def _tell(told: asyncio.Future[Any], message: Entered | Refused | Streams | Aborted) -> None:
    """Wake who waits, unless it was told or cancelled already, and has yet to run."""
    if told.done():
        return
    if isinstance(message, Refused):
        told.set_exception(message.error)
    else:
        told.set_result(message)
