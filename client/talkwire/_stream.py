"""An answer that comes in pieces, blocking and with asyncio. Starts no call but its own."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc

from talkwire._accumulator import Accumulator
from talkwire._answer import Answer, Chunk
from talkwire._errors import OUTSIDE_WITH, from_cancel, from_rpc, task_is_cancelled
from talkwire._output import Reader

if TYPE_CHECKING:
    from talkwire._async import AsyncClient
    from talkwire._sync import Client


class StreamBase:
    """An answer that comes in pieces.

    Attributes:
        id: The request's id, known from where the block is entered on.

    """

    def __init__(self, reader: Reader, begun: Answer | None) -> None:
        self.id = ""
        self._call: Any = None  # grpc's, once the block is entered
        self._ahead: Chunk | None = None  # was read to enter the block
        self._cancelled = False
        self._reader = reader
        self._answer = Accumulator(begun.proto if begun else None)

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

    def _begin(self, call: Any) -> None:
        self._call = call
        if self._cancelled:  # while it waited for a connection
            call.cancel()

    def _admitted(self, metadata: Any) -> bool:
        """Tell whether the server has taken the call; if not, reading raises why."""
        self.id = dict(metadata).get("x-request-id", "")
        return bool(self.id)

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
        self,
        client: "Client",
        start: Callable[[Answer], Any],
        reader: Reader,
        begun: Answer | None,
    ) -> None:
        super().__init__(reader, begun)
        self._client = client
        self._start = start

    def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def stop(self) -> Answer:
        """Have the server end the answer where it is; return it, "aborted", with its usage.

        For whoever reads the stream; others call `client.abort(stream.id)`.
        """
        if self.id:
            self._client.abort(self.id)
        return self.wait()

    def __enter__(self) -> Self:
        self._begin(self._start(self.answer))
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
            raise self._client._error(error, self.answer) from error
        self._answer.add(delta)
        return Chunk(delta)


class AsyncStream(StreamBase, AsyncIterator[Chunk]):
    """An answer as it is generated.

    The call starts where the `async with` block is entered, which raises `Error` if it is refused.
    Wherever and however the block is left before the end, the call is cancelled on the server.

        async with client.stream("Tell me a story.") as stream:
            async for chunk in stream:
                print(chunk, end="", flush=True)
    """

    def __init__(
        self,
        client: "AsyncClient",
        start: Callable[[Answer], Awaitable[Any]],
        reader: Reader,
        begun: Answer | None,
    ) -> None:
        super().__init__(reader, begun)
        self._client = client
        self._start = start

    async def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        async for _ in self:
            pass
        return self.answer

    async def stop(self) -> Answer:
        """Have the server end the answer where it is; return it, "aborted", with its usage.

        For whoever reads the stream; others `await client.abort(stream.id)`.
        """
        if self.id:
            await self._client.abort(self.id)
        return await self.wait()

    async def __aenter__(self) -> Self:
        self._begin(await self._start(self.answer))
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
        except grpc.RpcError as error:
            raise from_rpc(error, self._client.target, self.answer) from error
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise from_cancel(self._client.target, self.answer) from None
        if delta is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
            raise StopAsyncIteration
        self._answer.add(delta)
        return Chunk(delta)
