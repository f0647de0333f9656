"""Where the calls of one frontend ask to pass the gate. Knows no sockets and no engine."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission import Gate
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


class Desk:
    """The visits of one frontend's calls, each a task that is cancelled when the call leaves.

    Args:
        gate: Of the whole server.
        others: The desks of all frontends that take calls.
        send: Puts a message to the frontend on its way.

    Attributes:
        streams: How many ChatMultiplex the frontend has.

    """

    def __init__(self, gate: Gate, others: Collection["Desk"], send: Callable[[Any], None]) -> None:
        self.streams = 0
        self._gate = gate
        self._others = others
        self._send = send
        self._visits: dict[int, asyncio.Task[None]] = {}
        self._calls: dict[int, Call] = {}  # which stand here for the frontend's own

    def take(self, message: Enter | Count | Stream | Leave | End | Abort) -> None:
        """Do what the frontend asks for."""
        number = message.number
        match message:
            case Enter():
                asked = pb.ChatRequest(n=message.n, priority=message.priority)
                call = Call(message.id, "", asked, arrival=message.arrival)
                self._calls[number] = call  # now: its end may be the next message
                self._begin(number, self._enter(message, call))
            case Count():
                self._begin(number, self._count(message))
            case Stream():
                self._begin(number, self._stream(message))
            case Abort():
                self._begin(number, self._abort(message))
            case Leave():
                if left := self._calls.get(number):
                    left.used = message.used
                if visit := self._visits.get(number):
                    visit.cancel()
            case End():
                if ended := self._calls.get(number):
                    ended.end(message.reason)

    @property
    def calls(self) -> int:
        """How many calls of the frontend are inside, or wait."""
        return len(self._calls)

    def close(self) -> None:
        """Have all leave: the frontend has ended."""
        for visit in self._visits.values():
            visit.cancel()

    def _begin(self, number: int, visit: Coroutine[Any, Any, None]) -> None:
        task = self._visits[number] = asyncio.create_task(visit)
        task.add_done_callback(lambda _: self._forget(number))

    def _forget(self, number: int) -> None:
        del self._visits[number]
        self._calls.pop(number, None)

    async def _enter(self, asked: Enter, call: Call) -> None:
        number = asked.number
        entering = self._gate.entering(call, asked.caller, asked.size, asked.held, asked.left)
        try:
            async with entering:
                call.on_end(lambda: self._send(End(number, call.ending)))
                call.used = asked.held if call.places else 0  # unless it is told how many it was
                self._send(Entered(number, call.places, call.waited))
                await _left()
        except CallError as error:
            self._send(Refused(number, error))

    async def _count(self, asked: Count) -> None:
        try:
            async with self._gate.counting(asked.caller):
                self._send(Entered(asked.number, 0, 0.0))
                await _left()
        except CallError as error:
            self._send(Refused(asked.number, error))

    async def _stream(self, asked: Stream) -> None:
        stays = not (asked.moves and any(one.streams < self.streams for one in self._others))
        self._send(Streams(asked.number, stays))
        if stays:
            self.streams += 1
            try:
                await _left()
            finally:
                self.streams -= 1

    async def _abort(self, asked: Abort) -> None:
        found = await self._gate.abort(asked.id, asked.caller)
        self._send(Aborted(asked.number, found))


async def _left() -> None:
    """Wait until the visit is cancelled."""
    await asyncio.Future[None]()
