"""The calls that are being answered: whose client reads nothing, and how any is cut.

Knows no engine. gRPC sends a status behind the messages that were sent before it, so a call that
is cut keeps what it has of its answer, and can go on elsewhere.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from time import monotonic

import grpc
from google.protobuf.message import Message
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled

from talkwire_server.errors import CallError, SlowReader
from talkwire_server.statuses import Context, abort

log = logging.getLogger("talkwire")

LAST_WORDS = 1.0  # seconds for the statuses of calls that are cut to reach their clients


async def _holds_nothing() -> None:
    return


@contextmanager
def leaving() -> Iterator[None]:
    """Send in this block: that a client has left, grpc.aio may say there before it cancels."""
    try:
        yield
    except cygrpc.ExecuteBatchError:
        raise asyncio.CancelledError from None


class OpenCall:
    """One call, in its handler's task.

    Attributes:
        sending_since: Since when the client has been taking a message, in `time.monotonic`
            seconds; inf between messages. A stamp, because a timer a message would cost more.
        flush: Returns when all that the handler holds has been sent.

    """

    __slots__ = ("_admitted", "_context", "_handler", "flush", "id", "sending_since")

    def __init__(self, context: Context, id: str, flush: Callable[[], Awaitable[None]]) -> None:
        handler = asyncio.current_task()
        assert handler
        self._context = context
        self._handler = handler
        self.id = id
        self.flush = flush
        self.sending_since = inf
        self._admitted: asyncio.Future[None] | None = None

    async def admit(self) -> None:
        """Tell the client that the call is let in, and its id."""
        self._admitted = asyncio.get_running_loop().create_future()
        try:
            with leaving():
                await self._context.send_initial_metadata((("x-request-id", self.id),))
        finally:
            self._admitted.set_result(None)

    async def send(self, message: Message) -> None:
        """Send a message; return when gRPC has it and wants the next."""
        self.sending_since = monotonic()
        try:  # once a token
            await self._context.write(message)
        except cygrpc.ExecuteBatchError:
            raise asyncio.CancelledError from None
        self.sending_since = inf

    async def _flushed(self) -> None:
        # gRPC sends no status that comes while it sends what is before all.
        if self._admitted:
            await asyncio.wait([self._admitted])
        await self.flush()

    async def cut(self, error: CallError, patience: float) -> None:
        """End the call; return when its client has the status, or did not take it in time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS / 2):
                await self._flushed()
        if self._context.done():  # it ends by itself
            await asyncio.wait([self._handler])
            return
        # First the status: a handler that is cancelled sends none.
        asyncio.get_running_loop().call_soon(self._handler.cancel, error)
        try:
            async with asyncio.timeout(patience or None):
                await abort(self._context, error, self.id)
        except (TimeoutError, grpc.aio.BaseError) as ended:  # how abort returns, or the client left
            ended.__traceback__ = None  # which, in a ring, keeps what `Transit` resets


class OpenCalls:
    """All of them.

    Args:
        reader_timeout: Seconds that a client may take for one message; 0 for any time.

    """

    def __init__(self, reader_timeout: float) -> None:
        self._reader_timeout = reader_timeout
        self._calls: set[OpenCall] = set()
        self._statuses: set[asyncio.Task[None]] = set()

    @contextmanager
    def enter(
        self, context: Context, id: str, flush: Callable[[], Awaitable[None]] = _holds_nothing
    ) -> Iterator[OpenCall]:
        """Count the current task's call for the length of the block."""
        call = OpenCall(context, id, flush)
        self._calls.add(call)
        try:
            yield call
        finally:
            self._calls.remove(call)

    async def watch_readers(self) -> None:
        """Cut, as long as this runs, the streams whose clients read nothing."""
        while self._reader_timeout:
            await asyncio.sleep(self._reader_timeout / 8)
            self._cut_slow()

    def _cut_slow(self) -> None:
        limit = monotonic() - self._reader_timeout
        for call in [call for call in self._calls if call.sending_since < limit]:
            log.info("request %s: its client reads nothing", call.id)
            call.sending_since = inf
            self._cut(call, SlowReader(self._reader_timeout))

    async def cut(self, error: CallError) -> None:
        """End all calls; return when their clients know, or take too long to."""
        for call in [*self._calls]:
            self._cut(call, error)
        if self._statuses:
            await asyncio.wait(self._statuses, timeout=LAST_WORDS)

    def _cut(self, call: OpenCall, error: CallError) -> None:
        status = asyncio.create_task(call.cut(error, self._reader_timeout))
        self._statuses.add(status)
        status.add_done_callback(self._statuses.discard)
