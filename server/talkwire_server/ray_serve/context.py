"""What handlers ask of gRPC's context, answered from Ray Serve's. Knows no handlers."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import grpc
from google.protobuf.message import Message
from ray.serve.grpc_util import RayServegRPCContext


class Failed(Exception):
    """A call's status, for Serve to carry to another process."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)  # as pickle makes it anew


class ServeContext:
    """One call, in the place of a `grpc.aio.ServicerContext`.

    Serve drops the trailers of a call that raises, and with them why it failed; it sends those of
    one that returns, whatever its status. So who is aborted here returns. A call that came over
    Serve's own proxy, in another process, has to raise.

    Attributes:
        direct: Whether the call is known to have come straight to this process.

    """

    def __init__(self, given: RayServegRPCContext) -> None:
        self.direct = False
        self._given = given
        self._aborted = False
        self._done = False
        self._written: asyncio.Queue[Message | None] = asyncio.Queue()

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """Return what the caller sent beside its request."""
        return self._given.invocation_metadata()

    def peer(self) -> str:
        """Name the other end of the connection, which is HAProxy's."""
        return self._given.peer()

    def peer_identities(self) -> None:
        """Know nobody: HAProxy asks for no certificates."""

    def time_remaining(self) -> None:
        """Not know: Serve keeps the deadline to itself, and cancels when it is over."""

    def done(self) -> bool:
        """Tell whether the call has ended."""
        return self._done

    async def send_initial_metadata(self, metadata: object) -> None:
        """Send nothing: Serve cannot."""

    async def write(self, message: Message) -> None:
        """Send a message; return when it was taken."""
        self._written.put_nowait(message)
        await self._written.join()

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: Sequence[tuple[str, str | bytes]] = (),
    ) -> NoReturn:
        """End the call with a status, as soon as its handler has ended."""
        self._given.set_code(code)
        self._given.set_details(details)
        self._given.set_trailing_metadata(list(trailing_metadata))
        self._aborted = True
        raise grpc.aio.AbortError

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Run a handler in the block; leave it as Serve understands how the handler ended."""
        try:
            yield
        except (grpc.aio.AbortError, asyncio.CancelledError) as error:
            if not self._aborted:
                raise
            if not self.direct:
                raise Failed(self._given.code(), self._given.details()) from None
            if isinstance(error, asyncio.CancelledError):  # by whoever aborted it
                task = asyncio.current_task()
                assert task
                task.uncancel()
        finally:
            self._done = True

    async def writing(self, handler: Coroutine[Any, Any, None]) -> AsyncIterator[Message]:
        """Run a handler that writes; yield what it does."""
        task = asyncio.ensure_future(handler)
        task.add_done_callback(lambda _: self._written.put_nowait(None))
        try:
            while message := await self._written.get():
                yield message
                self._written.task_done()
            await task
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, grpc.aio.AbortError):
                await task
