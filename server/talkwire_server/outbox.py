"""What a connection's calls have to say: one message for all that became ready meanwhile.

Knows no calls but their numbers. It is bounded without a limit of its own: a call adds its next
event when the one before is on its way, and until then its engine merges what it makes.
"""

import asyncio
from collections.abc import Callable, Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Delta

MOST_BYTES = 1 << 20  # of one message; gRPC's clients take four times that unless told otherwise
CROWDED = 4096  # events


class Outbox:
    """Collects events for one reader. `take` them while the last ones are being sent."""

    def __init__(self) -> None:
        self._message = pb.ChatMultiplexResponse()
        self._calls: set[int] = set()  # of the events in it
        self._filled = asyncio.Event()
        self._taken = asyncio.Event()
        self._call_backs: list[Callable[[], object]] = []
        self._closed = False
        self._messages = 0  # that were taken
        self._sent = 0  # of them

    def place(self, call: int) -> "Place":
        """Return where a call puts its deltas."""
        return Place(self, call)

    def holds(self, call: int) -> bool:
        """Tell whether an event of a call waits: then the next must wait for `taken`."""
        return call in self._calls

    async def taken(self) -> None:
        """Return when what waits is on its way."""
        await self._taken.wait()

    def on_taken(self, call_back: Callable[[], object]) -> None:
        """Call back once, when what waits is on its way."""
        self._call_backs.append(call_back)

    async def uncrowded(self) -> None:
        """Return when few events wait."""
        while len(self._message.events) >= CROWDED:
            await self._taken.wait()

    def add(self, call: int) -> pb.ChatMultiplexResponse.Event:
        """Add an event, to be filled in at once."""
        self._calls.add(call)
        self._filled.set()
        event = self._message.events.add()  # which takes a field twice as long
        event.call = call
        return event

    def close(self) -> None:
        """Have `take` end when it gave all there is."""
        self._closed = True
        self._filled.set()

    async def take(self) -> pb.ChatMultiplexResponse:
        """Wait for events and return them all; none when it is closed and empty."""
        self._sent = self._messages
        self._notify()
        await self._filled.wait()
        if not self._closed:
            self._filled.clear()
        taken, self._message = self._message, pb.ChatMultiplexResponse()
        self._calls.clear()
        self._messages += bool(taken.events)
        self._notify()
        call_backs, self._call_backs = self._call_backs, []
        for call_back in call_backs:
            call_back()
        return taken

    async def flushed(self) -> None:
        """Return when all that was added until now has been sent."""
        last = self._messages + bool(self._message.events)
        while self._sent < last:
            await self._taken.wait()

    def _notify(self) -> None:
        self._taken.set()
        self._taken.clear()


class Place:
    """Where one call puts its deltas; a `talkwire_server.engine.Sink`."""

    __slots__ = ("_call", "_outbox")

    def __init__(self, outbox: Outbox, call: int) -> None:
        self._outbox = outbox
        self._call = call

    def takes(self) -> bool:
        """Tell whether the call's last event is on its way."""
        return not self._outbox.holds(self._call)

    def give(self, delta: Delta) -> None:
        """Put a delta into the next message."""
        self._outbox.add(self._call).response.CopyFrom(delta)

    def admit(self, request_id: str) -> None:
        """Say that the call is let in."""
        self._outbox.add(self._call).admitted = request_id

    def on_room(self, call_back: Callable[[], object]) -> None:
        """Call back once, when its last event is on its way."""
        self._outbox.on_taken(call_back)

    async def room(self) -> None:
        """Return when its last event is on its way."""
        await self._outbox.taken()


def parts(message: pb.ChatMultiplexResponse) -> Iterator[pb.ChatMultiplexResponse]:
    """Cut a message that is too large between its events."""
    if message.ByteSize() <= MOST_BYTES:
        yield message
        return
    part, size = pb.ChatMultiplexResponse(), 0
    for event in message.events:
        size += event.ByteSize()
        if size > MOST_BYTES and part.events:
            yield part
            part, size = pb.ChatMultiplexResponse(), event.ByteSize()
        part.events.append(event)
    yield part
