"""An answer that is read piece by piece, with asyncio; `_stream_sync.py` is its twin."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from talkwire._answer import Answer, Chunk
from talkwire._errors import OUTSIDE_WITH, Error, RequestIdInUse
from talkwire._options import Incoming
from talkwire._output import Reader
from talkwire._resume import Course
from talkwire._statuses import from_cancel, from_rpc, task_is_cancelled
from talkwire._stream import StreamBase
from talkwire_proto.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    from talkwire._async import AsyncClient
    from talkwire._replica_async import AsyncReplica


class AsyncStream(StreamBase, AsyncIterator[Chunk]):
    """An answer as it is generated.

    The call starts where the `async with` block is entered, which raises `Error` if it is refused.
    Wherever and however the block is left before the end, the call is cancelled on the server.

        async with client.stream("Tell me a story.") as stream:
            async for chunk in stream:
                print(chunk, end="", flush=True)
    """

    def __init__(
        self, client: "AsyncClient", course: Course, reader: Reader, within: Incoming | None
    ) -> None:
        super().__init__(course, reader, within)
        self._client = client
        self._replica: AsyncReplica  # that has the call

    async def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        async for _ in self:
            pass
        return self.answer

    async def stop(self) -> Answer:
        """Have the server end the answer where it is; return it, "aborted", with its usage.

        For whoever reads the stream; others `await client.abort(stream.id)`.
        """
        self._course.resume = False
        pieces = 0
        while self.id and not await self._client.abort(self.id):
            # It has ended, or is at another server than was asked: read on a little, and ask again.
            pieces += 1
            for _ in range(pieces):
                if await anext(self, None) is None:
                    return self.answer
        return await self.wait()

    async def __aenter__(self) -> Self:
        try:
            self._begin(self._client._options)
            self._bind()
            await self._start()
            if not self._admitted(await self._call.initial_metadata()):
                self._keep(await anext(self, None))
        except BaseException as error:
            self._leave(error)  # no block is entered that would do it
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(GeneratorExit())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._call is None:
            raise RuntimeError(OUTSIDE_WITH.format("async with"))
        if chunk := self._ahead:
            self._ahead = None
            return chunk
        try:
            try:
                delta = await self._call.read()
            except (grpc.RpcError, asyncio.CancelledError) as error:
                delta = await self._go_on(self._failed(error))
            if delta is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
                self._course.route.end()
                raise StopAsyncIteration
        except (StopAsyncIteration, Error) as end:
            self._end(end)
            raise
        self._answer.add(delta)
        return Chunk(delta)

    async def _start(self) -> None:
        course = self._course
        self._replica, call = await self._client._replicas.connect(
            course.route, course.arguments(), self.answer, self._hold
        )
        self._call = self._replica.chat_stream(course.request, **call)
        self._hold(self._call)

    async def _go_on(self, error: Error) -> Any:
        """Read on in another call. Raises the error where none may follow."""
        if self._lost_nothing(error):
            raise StopAsyncIteration
        while True:
            pause = self._course.follow(error, self.id, self.answer)
            try:
                if isinstance(error, RequestIdInUse):  # the call that broke off
                    abort = pb.AbortRequest(id=self._course.request.request_id)
                    await self._replica.stub.Abort(abort, **self._course.arguments())
                await self._pause(pause)
                await self._start()
                delta = await self._call.read()
            except (grpc.RpcError, grpc.aio.UsageError, asyncio.CancelledError) as cause:
                error = self._failed(cause)
            except Error as none:  # no connection
                error = none
            else:
                self.resumed += bool(self.id)
                return delta

    async def _pause(self, seconds: float) -> None:
        pausing = asyncio.ensure_future(asyncio.sleep(seconds))
        self._hold(pausing)
        await pausing

    def _failed(self, cause: BaseException) -> Error:
        ended = not isinstance(cause, grpc.RpcError)  # or the channel is closed
        if isinstance(cause, asyncio.CancelledError) and task_is_cancelled():
            raise cause
        if ended or self._cancelled.is_set():
            return from_cancel(self._client.target, self.answer)
        return from_rpc(cause, self._replica.address, self.answer)
