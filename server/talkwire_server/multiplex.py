"""Many calls over one stream: each as if it had an rpc of its own. Knows no engine, no sockets."""

import asyncio
from collections.abc import AsyncIterable, Awaitable, Callable
from functools import partial
from itertools import islice
from typing import TypeAlias

from google.rpc import code_pb2

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import Support, beyond
from talkwire_server.errors import (
    MOST_FOUND,
    CallError,
    InvalidRequest,
    UnsupportedFeature,
    Violation,
)
from talkwire_server.outbox import Outbox, Place, parts
from talkwire_server.statuses import call_error, status
from talkwire_server.trace_context import TraceContext, of_start

Feed: TypeAlias = Callable[
    [str, pb.ChatRequest, TraceContext, float | None, Place], Awaitable[None]
]
"""Answers a request, by its id, its trace and the seconds until its deadline, into a place."""

_SUPPORTED: Support = {
    "call": {},
    # The request's own are looked at as any call's are.
    "start": {"request": None, "timeout": None, "traceparent": {}, "tracestate": {}},
    "cancel": {},
}

MOMENT = 0.05  # seconds

_YEAR = 365 * 86_400.0  # what a loop's timer can still count

_OK = pb.CallStatus()
_CANCELLED = pb.CallStatus(code=code_pb2.CANCELLED, message="cancelled by the caller")
_TOO_LATE = pb.CallStatus(code=code_pb2.DEADLINE_EXCEEDED, message="the call's timeout is over")


class Multiplex:
    """The calls of one stream. Of more than `most` at once it reads the next when one has ended."""

    def __init__(self, feed: Feed, request_id: Callable[[pb.ChatRequest], str], most: int) -> None:
        self._feed = feed
        self._request_id = request_id
        self._most = most
        self._fewer = asyncio.Event()
        self._calls: dict[int, asyncio.Task[pb.CallStatus]] = {}
        self._cut: dict[int, pb.CallStatus | None] = {}  # those that are cut; None: unsaid
        self._reading = True
        self.outbox = Outbox()

    async def serve(
        self,
        requests: AsyncIterable[pb.ChatMultiplexRequest],
        send: Callable[[pb.ChatMultiplexResponse], Awaitable[None]],
    ) -> None:
        """Answer until there are no more requests and every call has its status.

        Raises:
            InvalidRequest: A request speaks of a running call what cannot be said of one.

        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (taken := await self.outbox.take()).events:
                for message in parts(taken):
                    await send(message)
            await reading
        except asyncio.CancelledError as cut:
            self._cut_all(*cut.args)
            raise
        finally:
            reading.cancel()
            self._cut_all()
            ended = asyncio.gather(reading, *self._calls.values(), return_exceptions=True)
            await asyncio.shield(ended)  # of another cancel, too

    async def said(self) -> None:
        """Return when all was sent, and a moment later.

        A client that writes when its stream has ended loses what it has not read (grpc.aio's
        `set_internal_error`): the end of calls that were let in, too.
        """
        await self.outbox.flushed()
        await asyncio.sleep(MOMENT)

    async def _read(self, requests: AsyncIterable[pb.ChatMultiplexRequest]) -> None:
        try:
            async for request in requests:
                await self.outbox.uncrowded()  # who does not read is not read
                while len(self._calls) >= self._most:
                    self._fewer.clear()
                    await self._fewer.wait()
                try:
                    self._take(request)
                except CallError as error:
                    if request.call in self._calls:  # whose status would this be?
                        raise
                    self._end(request.call, _call_status(error))
        except BaseException:
            self._cut_all()
            self.outbox.close()
            raise
        self._reading = False
        self._close_if_done()

    def _take(self, request: pb.ChatMultiplexRequest) -> None:
        action = request.WhichOneof("action")
        if unknown := list(islice(beyond(request, _SUPPORTED), MOST_FOUND)):
            raise UnsupportedFeature(unknown)
        if action == "start":
            if request.call in self._calls:
                fault = Violation("call", f"{request.call} is running", "ALREADY_EXISTS")
                raise InvalidRequest([fault])
            task = asyncio.create_task(self._answer(request.call, request.start))
            self._calls[request.call] = task
            task.add_done_callback(partial(self._on_end, request.call))
        elif action is None:
            raise InvalidRequest([Violation("action", "required", "REQUIRED")])
        elif request.call in self._calls:  # else it has ended, and the caller will read so
            self._stop(request.call, _CANCELLED)

    def _stop(self, call: int, status: pb.CallStatus | None, why: object = None) -> None:
        """Cut a running call, once: a second cancel would end its cleaning up."""
        if call not in self._cut:
            self._cut[call] = status
            self._calls[call].cancel(why)

    def _cut_all(self, why: object = None) -> None:
        for call in self._calls:
            self._stop(call, None, why)

    async def _answer(self, call: int, start: pb.ChatMultiplexRequest.Start) -> pb.CallStatus:
        """Put a call's deltas into the outbox; return how it ended."""
        request_id, place = self._request_id(start.request), self.outbox.place(call)
        left = (
            min(_YEAR, start.timeout.ToNanoseconds() / 1e9) if start.HasField("timeout") else None
        )
        loop = asyncio.get_running_loop()
        limit = None if left is None else loop.call_later(left, self._stop, call, _TOO_LATE)
        try:
            await self._feed(request_id, start.request, of_start(start), left, place)
        except Exception as error:
            return _call_status(call_error(error, request_id), request_id)
        finally:
            if limit:
                limit.cancel()
        return _OK

    def _on_end(self, call: int, task: asyncio.Task[pb.CallStatus]) -> None:
        del self._calls[call]
        self._fewer.set()
        ended = self._cut.pop(call, _CANCELLED)
        try:
            ended = task.result()
        except asyncio.CancelledError:
            pass
        except Exception as error:  # one that has no status
            ended = _call_status(call_error(error, ""))
        if ended:
            self._end(call, ended)
        self._close_if_done()

    def _end(self, call: int, ended: pb.CallStatus) -> None:
        self.outbox.add(call).status.CopyFrom(ended)

    def _close_if_done(self) -> None:
        if not (self._reading or self._calls):
            self.outbox.close()


def _call_status(error: CallError, request_id: str = "") -> pb.CallStatus:
    made = status(error, request_id)
    return pb.CallStatus(code=made.code, message=made.message, details=made.details)
