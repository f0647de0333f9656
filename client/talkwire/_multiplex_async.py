"""Calls over ChatMultiplex, with asyncio; `_multiplex_sync.py` is its twin."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

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
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub

_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs


class AsyncMultiplexer:
    """Makes calls that share streams; see `Pool` and `Tries`."""

    def __init__(self, way: "Way[ChatServiceAsyncStub]", most: int, retry: Retry | None) -> None:
        self._stub = way.stub
        self.tries = Tries(retry)
        self.streams = Pool(most, lambda metadata: _Stream(way, metadata))

    def ChatStream(
        self,
        request: pb.ChatRequest,
        *,
        timeout: float | None,
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> Any:
        """Begin a call, as the stub does."""
        if request.ByteSize() > LARGE:
            return self._stub.ChatStream(request, timeout=timeout, metadata=metadata)
        return AsyncCall(self, request, timeout, metadata)


class _Stream(Carrier["AsyncCall"]):
    """One rpc and the calls on it."""

    def __init__(self, way: "Way[ChatServiceAsyncStub]", metadata: Metadata) -> None:
        self._requests: asyncio.Queue[pb.ChatMultiplexRequest | None] = asyncio.Queue()
        super().__init__(self._requests.put_nowait, way.move)
        metadata += way.metadata
        try:
            self._rpc = way.stub.ChatMultiplex(self._outgoing(), metadata=metadata)
        except grpc.aio.UsageError:  # the channel is closed
            raise Stopped from None
        self._reading = asyncio.create_task(self._read())

    async def _outgoing(self) -> AsyncIterator[pb.ChatMultiplexRequest]:
        while request := await self._requests.get():
            yield request

    async def _read(self) -> None:
        rpc: Any = self._rpc
        try:
            while (message := await rpc.read()) is not _EOF:
                self.take(message)
            self.end(None)
        except grpc.RpcError as error:
            self.end(error)
        except asyncio.CancelledError:  # the channel is closed
            self.end(Stopped())
            raise
        except Exception:
            rpc.cancel()
            self.end(broken())
            raise


class AsyncCall(CallBase):
    """One call, read as a `grpc.aio.UnaryStreamCall` is."""

    def __init__(
        self,
        multiplexer: AsyncMultiplexer,
        request: pb.ChatRequest,
        timeout: float | None,
        metadata: Sequence[tuple[str, str | bytes]],
    ) -> None:
        super().__init__(request, metadata, multiplexer.tries)
        self._multiplexer = multiplexer
        self._loop = asyncio.get_running_loop()
        self._end = None if timeout is None else self._loop.time() + timeout
        self._timer = self._loop.call_at(self._end, self._expire) if self._end else None
        self._changed: asyncio.Future[None] | None = None
        self._start()

    async def initial_metadata(self) -> Metadata:
        """Wait until the server let the call in, or refused it for good: then it is empty."""
        while not self.begun:
            if not self.ended:
                await self._wait()
            elif (pause := self.pause(self._left())) is None:
                break
            else:
                self.again()
                await self._wait(pause)
                if not self.ended:
                    self._start()
        return initial_metadata(self.id)

    async def read(self) -> Any:
        """Wait for the next delta, or EOF. Raises `Failure`."""
        if not self.begun:
            await self.initial_metadata()
        while not self.deltas:
            if isinstance(self.failure, Stopped):
                raise asyncio.CancelledError  # as grpc.aio does
            if self.failure:
                raise self.failure
            if self.ended:
                return _EOF
            self._changed = self._loop.create_future()
            await self._changed
        return self.deltas.popleft()

    def cancel(self) -> None:
        """End the call, if it has not ended."""
        if self._timer:
            self._timer.cancel()
        self._stop(Stopped())

    def admit(self, id: str) -> None:
        """Note that the server let the call in, as what."""
        super().admit(id)
        self._wake()

    def take(self, delta: pb.ChatStreamResponse) -> None:
        """Take the next delta."""
        super().take(delta)
        self._wake()

    def fail(self, failure: Failure | None) -> None:
        """End the call; what came of it can still be read."""
        super().fail(failure)
        if self._timer and (self.begun or not failure):
            self._timer.cancel()
        self._wake()

    def _start(self) -> None:
        try:
            self._stream = self._multiplexer.streams.get(self.metadata)
        except Stopped as stopped:
            self.fail(stopped)
        else:
            self._number = self._stream.start(self, self._left())

    def _stop(self, failure: Failure) -> None:
        if not self.ended:
            self.deltas.clear()
            self.fail(failure)
            self._stream.cancel(self._number, self)

    def _expire(self) -> None:
        self._stop(too_late())

    def _left(self) -> float | None:
        return None if self._end is None else self._end - self._loop.time()

    async def _wait(self, seconds: float | None = None) -> None:
        """Return when something happened, or the time is over."""
        self._changed = self._loop.create_future()
        await asyncio.wait({self._changed}, timeout=seconds)

    def _wake(self) -> None:
        if self._changed and not self._changed.done():
            self._changed.set_result(None)
