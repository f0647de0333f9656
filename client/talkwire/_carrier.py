"""The streams of ChatMultiplex, but for their I/O: what each carries, and which carries more.

Knows no deadlines and no tries.
"""

from collections.abc import Callable
from itertools import count
from typing import Any, Generic, TypeVar

import grpc

from talkwire._multiplex import CODES, CallBase, Failure, Metadata, Stopped, failure, is_crowded
from talkwire._statuses import is_reset
from talkwire_proto.v1 import chat_pb2 as pb

_NO_BEGINNING = "Internal error from Core"
"""grpc.aio's words for a stream that begins while its connection ends."""

C = TypeVar("C", bound=CallBase)


MOST_MOVES = 16
_MOVES = ("x-talkwire-moves", "1")

S = TypeVar("S", bound="Carrier[Any]")
T = TypeVar("T")  # of a stub


class Way(Generic[T]):
    """The connection that new streams take.

    A server of several processes says of a stream that another has fewer, if the stream says that
    it can move. Which process has a connection is chance, so it moves a bounded number of times.

    Args:
        stub: On the first connection.
        another: Makes one on a new connection; None where there can be no other.

    """

    def __init__(self, stub: T, another: Callable[[], T] | None) -> None:
        self.stub = stub
        self._another = another
        self._left = MOST_MOVES

    @property
    def metadata(self) -> Metadata:
        """What a stream says that can move."""
        return (_MOVES,) if self._another and self._left else ()

    def move(self) -> None:
        """Take another connection from now on."""
        if self._another and self._left:
            self._left -= 1
            self.stub = self._another()


class Numbers:
    """Numbers for calls, small ones again and again: each event has one."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._new = count(1)

    def take(self) -> int:
        """Return one that no call has."""
        return self._free.pop() if self._free else next(self._new)

    def free(self, number: int) -> None:
        """Say that its call has had its last event."""
        self._free.append(number)


class Carrier(Generic[C]):
    """One stream and the calls on it, by their numbers, but for its I/O.

    Attributes:
        calls: Those that run; None for one that was cancelled and has not ended yet.
        open: Whether it takes calls.

    Args:
        send: Puts a request on its way; None takes leave of the server.
        move: Has the next stream take another connection.

    """

    def __init__(
        self,
        send: Callable[[pb.ChatMultiplexRequest | None], object],
        move: Callable[[], object],
    ) -> None:
        self.calls: dict[int, C | None] = {}
        self.open = True
        self._send = send
        self._move = move
        self._numbers = Numbers()

    def start(self, call: C, left: float | None) -> int:
        """Begin a call; return its number. Only while it is open."""
        number = self._numbers.take()
        self.calls[number] = call
        self._send(_start(number, call, left))
        return number

    def cancel(self, number: int, call: C) -> None:
        """End a call, if it runs: its number may be another's by now."""
        if self.calls.get(number) is call:
            self.calls[number] = None
            self._send(_cancel(number))

    def close_if_idle(self) -> None:
        """Take leave of the server, if no call needs the stream."""
        if not self.calls:
            self.open = False
            self._send(None)

    def take(self, message: pb.ChatMultiplexResponse) -> None:
        """Give calls what the server says of them."""
        for event in message.events:
            call = self.calls.get(event.call)
            if event.HasField("response"):  # first: once a token
                if call:
                    call.take(event.response)
            elif event.HasField("admitted"):
                if call:
                    call.admit(event.admitted)
            elif event.HasField("status") and event.call in self.calls:
                self._forget(event)  # first: the call may look for another stream at once
                if call:
                    call.fail(failure(event.status))

    def end(self, error: grpc.RpcError | None) -> None:
        """End the calls that run, as the stream ended."""
        self._close()
        self._send(None)
        for call in filter(None, [*self.calls.values()]):
            call.fail(_lost(error))
        self.calls.clear()

    def _close(self) -> None:
        self.open = False

    def _forget(self, event: pb.ChatMultiplexResponse.Event) -> None:
        # Where it is unavailable another stream, maybe another server, is better for the next.
        if CODES.get(event.status.code) is grpc.StatusCode.UNAVAILABLE:
            if self.open and is_crowded(event.status):
                self._move()
            self.open = False
        del self.calls[event.call]
        self._numbers.free(event.call)
        if not self.open:
            self.close_if_idle()


class Pool(Generic[S]):
    """The streams that calls share: opened when needed, and anew when they broke.

    Args:
        most: Over how many streams calls of the same metadata spread. The channel takes each of
            them to the next server, if there are several.
        make: Opens one that carries metadata.

    """

    def __init__(self, most: int, make: Callable[[Metadata], S]) -> None:
        self._most = most
        self._make = make
        self._streams: dict[Metadata, list[S]] = {}

    def get(self, metadata: Metadata) -> S:
        """Choose the stream for a call: one without calls, a new one, or that with the fewest."""
        for other in self._streams.keys() - {metadata}:
            for stream in self._streams[other]:
                stream.close_if_idle()
        streams = self._streams.setdefault(metadata, [])
        if not all(stream.open for some in self._streams.values() for stream in some):
            streams = self._drop(metadata)
        fewest = min(streams, key=lambda stream: len(stream.calls), default=None)
        if fewest is None or (fewest.calls and len(streams) < self._most):
            fewest = self._make(metadata)
            streams.append(fewest)
        return fewest

    def _drop(self, metadata: Metadata) -> list[S]:
        """Forget the streams that take no calls; return those that do, of some metadata."""
        opened = {key: [s for s in some if s.open] for key, some in self._streams.items()}
        self._streams = {key: some for key, some in opened.items() if some or key == metadata}
        return self._streams[metadata]


def _start(number: int, call: CallBase, left: float | None) -> pb.ChatMultiplexRequest:
    """Begin a call, with the seconds until its deadline."""
    message = pb.ChatMultiplexRequest(call=number)
    message.start.request.CopyFrom(call.request)
    for name, value in call.trace.items():
        setattr(message.start, name, value)
    if left is not None:
        message.start.timeout.FromNanoseconds(max(0, int(left * 1e9)))
    return message


def _cancel(number: int) -> pb.ChatMultiplexRequest:
    """End a call."""
    message = pb.ChatMultiplexRequest(call=number)
    message.cancel.SetInParent()
    return message


def _lost(error: grpc.RpcError | None) -> Failure:
    """Say of a call how the stream ended that carried it."""
    if isinstance(error, Stopped):
        return Stopped()
    if error is None:
        return Failure(grpc.StatusCode.UNAVAILABLE, "the server ended the stream")
    told: Any = error
    code, text = told.code(), told.details() or ""
    if text == _NO_BEGINNING or is_reset(code, text):
        code = grpc.StatusCode.UNAVAILABLE
    return Failure(code, text, told.trailing_metadata() or ())
