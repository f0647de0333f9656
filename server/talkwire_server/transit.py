"""What is on its way: requests that arrive, and answers that are taken. Knows no engine.

A request that is half there, and an answer that nobody takes, cost memory and nothing else; so
nothing but a bound ends them. Streams that nobody reads are `open_calls.py`'s.
"""

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Collection, Iterator
from math import inf
from time import monotonic
from typing import Any, TypeAlias

import grpc

from talkwire_server.callers import IDENTITY
from talkwire_server.listener import ThisCall
from talkwire_server.settings import Settings

Details: TypeAlias = grpc.HandlerCallDetails

log = logging.getLogger("talkwire")

PAUSE = 0.25  # seconds between looks
SLOW = 3  # looks that find the same call on its way: a stalled event loop makes nobody slow


class _Passage:
    """A call of which something is on its way, or was."""

    __slots__ = ("caller", "due", "is_over", "looks", "reset")

    due: float
    looks: float

    def __init__(self, reset: Callable[[], None]) -> None:
        identity = IDENTITY.get()
        self.caller = identity.name if identity else ""
        self.is_over = False
        self.reset = reset


class Transit(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Resets calls that are too long on their way, or too many."""

    def __init__(self, settings: Settings) -> None:
        self._request_timeout = settings.request_timeout
        self._reader_timeout = settings.slow_reader_timeout or inf
        self._most_slow = settings.max_slow_calls
        self._under_way: dict[_Passage, None] = {}  # the first has been for longest

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Any:
        """Find the handler of a call, and see when its request is there and its answer gone."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        call = ThisCall()
        passage = _Passage(call.reset)
        deserialize, serialize = handler.request_deserializer, handler.response_serializer

        def arrive(data: bytes) -> Any:
            self._rest(passage)
            return deserialize(data)

        def depart(answer: Any) -> Any:
            self._begin(passage, self._reader_timeout)
            return serialize(answer)

        if not handler.request_streaming:  # else they come when their caller likes
            self._begin(passage, self._request_timeout)
        # Of an answer that is out but for a rest little is kept; it does not count.
        call.watch(
            answered=lambda: self._begin(passage, self._reader_timeout, looks=-inf),
            ended=lambda: self._end(passage),
        )
        handler = handler._replace(request_deserializer=arrive)
        return (
            handler if handler.response_streaming else handler._replace(response_serializer=depart)
        )

    async def watch(self) -> None:
        """Reset, as long as this runs, what is late, and of those that are slow the ones over."""
        while True:
            await asyncio.sleep(PAUSE)
            now = monotonic()
            late, slow = [], []
            for passage in self._under_way:
                passage.looks += 1
                if passage.due < now:
                    late.append(passage)
                elif passage.looks >= SLOW:
                    slow.append(passage)
            late += _over(slow, self._most_slow)
            for passage in late:
                self._rest(passage)
                passage.reset()
            if late:
                log.info(
                    "reset %d calls: a request, or an answer, was too long on its way", len(late)
                )

    def _begin(self, passage: _Passage, seconds: float, looks: float = 0) -> None:
        self._rest(passage)
        passage.due, passage.looks = monotonic() + seconds, looks
        if not passage.is_over:
            self._under_way[passage] = None

    def _rest(self, passage: _Passage) -> None:
        self._under_way.pop(passage, None)

    def _end(self, passage: _Passage) -> None:
        passage.is_over = True  # though the handler may still clean up
        self._rest(passage)


def _over(slow: Collection[_Passage], most: int) -> Iterator[_Passage]:
    """Choose the ones to give up: the oldest of whoever has most at the time."""
    callers = defaultdict[str, deque[_Passage]](deque)
    for passage in slow:
        callers[passage.caller].append(passage)
    for _ in range(len(slow) - most):
        yield max(callers.values(), key=len).popleft()
