"""Calls over ChatMultiplex, blocking; `_multiplex_async.py` is its twin. A stream has a thread."""

from collections.abc import Sequence
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

import grpc

from talkwire._carrier import Carrier, Pool, Way
from talkwire._multiplex import (
    LARGE,
    CallBase,
    Failure,
    Metadata,
    Stopped,
    Tries,
    broken,
    initial_metadata,
    too_late,
)
from talkwire._options import Retry
from talkwire_proto.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub


class Multiplexer:
    """Makes calls that share streams; see `Pool` and `Tries`."""

    def __init__(self, way: "Way[ChatServiceStub]", most: int, retry: Retry | None) -> None:
        self._stub = way.stub
        self.tries = Tries(retry)
        self._lock = Lock()
        self._streams = Pool(most, lambda metadata: _Stream(way, metadata))

    def ChatStream(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None,
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> Any:
        """Begin a call, as the stub does."""
        if request.ByteSize() > LARGE:
            return self._stub.ChatStream(request, timeout=timeout, metadata=tuple(metadata))
        return Call(self, request, timeout, metadata)

    def start(self, call: "Call", left: float | None) -> "tuple[_Stream, int]":
        """Begin a call on a stream; return that, and its number there."""
        with self._lock:
            while True:
                stream = self._streams.get(call.metadata)
                if number := stream.start(call, left):
                    return stream, number


class _Stream(Carrier["Call"]):
    """One rpc and the calls on it. What its thread changes, too, is done under a lock."""

    def __init__(self, way: "Way[ChatServiceStub]", metadata: Metadata) -> None:
        requests: SimpleQueue[pb.ChatMultiplexRequest | None] = SimpleQueue()
        super().__init__(requests.put, way.move)
        self._lock = Lock()
        metadata += way.metadata
        try:
            self._rpc: Any = way.stub.ChatMultiplex(iter(requests.get, None), metadata=metadata)
        except ValueError as error:
            if "Channel closed" not in str(error):
                raise
            raise Stopped from None
        Thread(target=self._read, name="talkwire-multiplex", daemon=True).start()

    def start(self, call: "Call", left: float | None) -> int:
        """Begin a call; return its number, or 0 where it is open no more."""
        with self._lock:
            return super().start(call, left) if self.open else 0

    def cancel(self, number: int, call: "Call") -> None:
        """End a call, if it runs: its number may be another's by now."""
        with self._lock:
            super().cancel(number, call)

    def _read(self) -> None:
        try:
            for message in self._rpc:
                self.take(message)
            self.end(None)
        except grpc.RpcError as error:
            self.end(error)
        except Exception:
            self._rpc.cancel()
            self.end(broken())
            raise

    def _close(self) -> None:
        with self._lock:
            super()._close()

    def _forget(self, event: pb.ChatMultiplexResponse.Event) -> None:
        with self._lock:
            super()._forget(event)


class Call(CallBase):
    """One call, read as gRPC's iterator of responses is."""

    def __init__(
        self,
        multiplexer: Multiplexer,
        request: pb.ChatRequest,
        timeout: float | None,
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> None:
        super().__init__(request, metadata, multiplexer.tries)
        self._multiplexer = multiplexer
        self._end = None if timeout is None else monotonic() + timeout
        self._changed = Condition()
        self._start()

    def initial_metadata(self) -> Metadata:
        """Wait until the server let the call in, or refused it for good: then it is empty."""
        with self._changed:
            while not self.begun:
                if not self.ended:
                    self._wait()
                elif (pause := self.pause(self._left())) is None:
                    break
                else:
                    self.again()
                    self._changed.wait(pause)
                    if not self.ended:
                        self._start()
        return initial_metadata(self.id)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> pb.ChatStreamResponse:
        if not self.begun:
            self.initial_metadata()
        with self._changed:
            while not self.deltas:
                if self.failure:
                    raise self.failure
                if self.ended:
                    raise StopIteration
                self._wait()
            return self.deltas.popleft()

    def cancel(self) -> None:
        """End the call, if it has not ended; from any thread."""
        self._stop(Stopped())

    def admit(self, id: str) -> None:
        """Note that the server let the call in, as what."""
        with self._changed:
            super().admit(id)
            self._changed.notify_all()

    def take(self, delta: pb.ChatStreamResponse) -> None:
        """Take the next delta."""
        with self._changed:
            super().take(delta)
            self._changed.notify_all()

    def fail(self, failure: Failure | None) -> None:
        """End the call; what came of it can still be read."""
        with self._changed:
            super().fail(failure)
            self._changed.notify_all()

    def _start(self) -> None:
        try:
            self._stream, self._number = self._multiplexer.start(self, self._left())
        except Stopped as stopped:
            self.fail(stopped)

    def _stop(self, failure: Failure) -> None:
        with self._changed:
            if self.ended:
                return
            self.deltas.clear()
            self.fail(failure)
        self._stream.cancel(self._number, self)

    def _left(self) -> float | None:
        return None if self._end is None else self._end - monotonic()

    def _wait(self) -> None:
        """Wait until something happened; end the call where its time is over."""
        left = self._left()
        if left is not None and left <= 0:
            self._stop(too_late())
        else:
            self._changed.wait(left)
