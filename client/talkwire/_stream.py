"""An answer that comes in pieces, blocking and with asyncio. Starts no calls but its own."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from time import sleep
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from talkwire._accumulator import Accumulator
from talkwire._answer import Answer, Chunk
from talkwire._errors import (
    OUTSIDE_WITH,
    Error,
    RequestIdInUse,
    Unavailable,
    from_cancel,
    from_rpc,
    task_is_cancelled,
)
from talkwire._options import Incoming
from talkwire._output import Reader
from talkwire._resume import Course
from talkwire_proto.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    from talkwire._async import AsyncClient
    from talkwire._sync import Client


class StreamBase:
    """An answer that comes in pieces.

    Attributes:
        id: The request's id, known from where the block is entered on.
        resumed: How often the answer broke off and went on, with `resume`. Its `timing` is that of
            the last call, all else of the whole.

    """

    def __init__(self, course: Course, reader: Reader, within: Incoming | None) -> None:
        self.id = ""
        self.resumed = 0
        self._course = course
        self._within = within
        self._call: Any = None  # grpc's, once the block is entered
        self._ahead: Chunk | None = None  # was read to enter the block
        self._cancelled = False
        self._reader = reader
        self._answer = Accumulator(course.begun.proto if course.begun else None)

    @property
    def answer(self) -> Answer:
        """The answer as far as it came, with what it goes on with; see `Answer.complete`."""
        return Answer(self._answer.response, self._reader.whole)

    @property
    def parsed_so_far(self) -> Any:
        """What can be read of the JSON that `output` asked for, as far as it came, as plain values.

        None where nothing can be read; where `output` asked for no JSON, the text.

        Raises:
            ImportError: pydantic is not installed.

        """
        return self._reader.partial(self._answer.text)

    def cancel(self) -> None:
        """Stop the answer on the server; from any thread or task. Reading on raises `Cancelled`."""
        self._cancelled = True
        if self._call is not None:
            self._call.cancel()

    def _bind(self) -> None:
        """Have the end of the incoming call cancel this one, now if it has ended."""
        ended = False
        if isinstance(self._within, grpc.ServicerContext):
            ended = not self._within.add_callback(self.cancel)
        elif self._within:
            self._within.add_done_callback(lambda _: self.cancel())  # type: ignore[arg-type]  # stub
            ended = self._within.done()
        if ended:
            self.cancel()

    def _begin(self, call: Any) -> None:
        self._call = call
        if self._cancelled:  # while it waited for a connection
            call.cancel()

    def _admitted(self, metadata: Any) -> bool:
        """Tell whether the server has taken the call; if not, reading raises why."""
        self.id = dict(metadata).get("x-request-id", "")
        return bool(self.id)

    def _lost_nothing(self, error: Error) -> bool:
        """Tell whether all but the status had come when the connection was lost."""
        return isinstance(error, Unavailable) and self.answer.complete

    def _keep(self, chunk: Chunk | None) -> None:
        """Keep what came without an admission: a proxy may hold the metadata back."""
        self._ahead = chunk
        self.id = self.answer.id


class Stream(StreamBase, Iterator[Chunk]):
    """An answer as it is generated.

    The call starts where the `with` block is entered, which raises `Error` if it is refused.
    Wherever and however the block is left before the end, the call is cancelled on the server.

        with client.stream("Tell me a story.") as stream:
            for chunk in stream:
                print(chunk, end="", flush=True)
    """

    def __init__(
        self, client: "Client", course: Course, reader: Reader, within: Incoming | None
    ) -> None:
        super().__init__(course, reader, within)
        self._client = client

    def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def stop(self) -> Answer:
        """Have the server end the answer where it is; return it, "aborted", with its usage.

        For whoever reads the stream; others call `client.abort(stream.id)`.
        """
        self._course.resume = False
        if self.id:
            self._client.abort(self.id)
        return self.wait()

    def __enter__(self) -> Self:
        self._bind()
        self._start()
        try:
            if not self._admitted(self._call.initial_metadata()):
                self._keep(next(self, None))
        except BaseException:
            self.cancel()  # no block is entered that would do it
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        if self._call is None:
            raise RuntimeError(OUTSIDE_WITH.format("with"))
        if chunk := self._ahead:
            self._ahead = None
            return chunk
        try:
            delta = next(self._call)
        except grpc.RpcError as error:
            delta = self._go_on(self._failed(error))
        self._answer.add(delta)
        return Chunk(delta)

    def _start(self) -> None:
        call = self._client._connect(self._course.arguments(), self.answer)
        self._begin(self._client.stub.ChatStream(self._course.request, **call))

    def _go_on(self, error: Error) -> pb.ChatStreamResponse:
        """Read on in another call. Raises the error where none may follow."""
        if self._lost_nothing(error):
            raise StopIteration
        while True:
            pause = self._course.follow(error, self.id, self.answer)
            try:
                if isinstance(error, RequestIdInUse):  # the call that broke off
                    abort = pb.AbortRequest(id=self.id)
                    self._client.stub.Abort(abort, **self._course.arguments())
                sleep(pause)
                self._start()
                delta: pb.ChatStreamResponse = next(self._call)
            except grpc.RpcError as cause:
                error = self._failed(cause)
            except Error as none:  # no connection
                error = none
            else:
                self.resumed += 1
                return delta

    def _failed(self, cause: grpc.RpcError) -> Error:
        error = self._client._error(cause, self.answer)
        error.__cause__ = cause
        return error


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
        if self.id:
            await self._client.abort(self.id)
        return await self.wait()

    async def __aenter__(self) -> Self:
        self._bind()
        await self._start()
        try:
            if not self._admitted(await self._call.initial_metadata()):
                self._keep(await anext(self, None))
        except BaseException:
            self.cancel()  # no block is entered that would do it
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        if self._call is None:
            raise RuntimeError(OUTSIDE_WITH.format("async with"))
        if chunk := self._ahead:
            self._ahead = None
            return chunk
        try:
            delta = await self._call.read()
        except (grpc.RpcError, asyncio.CancelledError) as error:
            delta = await self._go_on(self._failed(error))
        if delta is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
            raise StopAsyncIteration
        self._answer.add(delta)
        return Chunk(delta)

    async def _start(self) -> None:
        call = await self._client._connect(self._course.arguments(), self.answer)
        self._begin(self._client.stub.ChatStream(self._course.request, **call))

    async def _go_on(self, error: Error) -> Any:
        """Read on in another call. Raises the error where none may follow."""
        if self._lost_nothing(error):
            raise StopAsyncIteration
        while True:
            pause = self._course.follow(error, self.id, self.answer)
            try:
                if isinstance(error, RequestIdInUse):  # the call that broke off
                    abort = pb.AbortRequest(id=self.id)
                    await self._client.stub.Abort(abort, **self._course.arguments())
                await asyncio.sleep(pause)
                await self._start()
                delta = await self._call.read()
            except (grpc.RpcError, asyncio.CancelledError) as cause:
                error = self._failed(cause)
            except Error as none:  # no connection
                error = none
            else:
                self.resumed += 1
                return delta

    def _failed(self, cause: BaseException) -> Error:
        if isinstance(cause, grpc.RpcError):
            error: Error = from_rpc(cause, self._client.target, self.answer)
            error.__cause__ = cause
            return error
        if task_is_cancelled():
            raise cause
        return from_cancel(self._client.target, self.answer)
