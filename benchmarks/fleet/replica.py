"""A replica: an engine that its streams share evenly, and a queue before it. Knows no other one.

Its streams all get the same number of tokens in the same time, so one clock of tokens is enough for
all: a stream that begins when the clock says v, with w tokens before it, ends when it says v + w.
What is next is the least of a heap, and however many streams there are, nothing else is computed.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count
from math import inf

import simpy

from fleet.stream import Stream
from talkwire_server.admission.pace import Pace

_NEAR = 1e-6  # tokens; what a clock that is a float may be short of


@dataclass(frozen=True)
class Engine:
    """What a replica can do.

    Attributes:
        each: Tokens a second of each stream, by how many run; the last: of as many as can.
        first: Seconds from a stream's begin to its first token, by how many run.
        prompts: Tokens a second that it reads while nobody gets any.
        places: Answers that its server lets the engine have at once; some wait there.
        queued: Calls that wait for a place.

    """

    each: Sequence[float]
    first: Sequence[float]
    prompts: float
    places: int
    queued: int


class Replica:
    """One of a fleet.

    Args:
        env: The time.
        engine: What it can do.
        ended: Is told of each stream whose answer is whole.

    Attributes:
        running: How many streams get tokens, or wait for their first one.
        tokens: Of answers, what it has given to all streams.

    """

    def __init__(
        self, env: simpy.Environment, engine: Engine, ended: Callable[[Stream], None]
    ) -> None:
        self.running = 0
        self.tokens = 0.0
        self._env = env
        self._engine = engine
        self._ended = ended
        self._seats = len(engine.each) - 1
        self._room = engine.places + engine.queued
        self._getting = 0  # of those that run, how many are past their prompts
        self._clock = 0.0  # tokens
        self._at = 0.0  # when the clock was read
        self._reads_until = 0.0  # prompts; the clock stands still
        self._next: list[tuple[float, int, Stream, int]] = []
        self._number = count()
        self._queue: deque[tuple[Stream, int]] = deque()
        self._waiting = 0
        self._pace = Pace()
        self._alarm: simpy.Event | None = None
        self._alarm_at = inf

    @property
    def has_seat(self) -> bool:
        """Whether the engine would have one more at once."""
        return self.running < self._seats

    def take(self, stream: Stream) -> float:
        """Let a stream run or wait; return 0, or if there is no room, when to come again."""
        if self.has_seat:
            self.advance()
            self._begin(stream)
            self._wake_in_time()
        elif self.running + self._waiting < self._room:
            self._queue.append((stream, stream.ticket))
            self._waiting += 1
            stream.runs = False
        else:
            return self._pace.retry_after(self._waiting + 1, self._engine.places)
        return 0

    def go_on(self, stream: Stream) -> None:
        """Have a stream amid its answer, as there are when the time begins."""
        self.running += 1
        self._give(stream)
        self._wake_in_time()

    def lose(self, stream: Stream) -> None:
        """Forget a stream; what it has yet to get stays in `left`."""
        if not stream.runs:
            self._waiting -= 1
        else:
            self.advance()
            self._stop(stream)
            self._admit()
            self._wake_in_time()
        stream.ticket += 1

    def die(self, streams: Sequence[Stream]) -> None:
        """Lose all; these."""
        self.advance()
        for stream in streams:
            if stream.runs:
                self._stop(stream)
            stream.ticket += 1
        self._reads_until = 0.0
        self._next.clear()
        self._queue.clear()
        self._waiting = 0
        self._alarm, self._alarm_at = None, inf

    def advance(self) -> None:
        """Set its clock, and `tokens`, to the present."""
        now = self._env.now
        if (seconds := now - max(self._at, self._reads_until)) > 0:
            tokens = seconds * self._engine.each[self.running]
            self._clock += tokens
            self.tokens += tokens * self._getting
        self._at = now

    def _stop(self, stream: Stream) -> None:
        self.running -= 1
        if not stream.reads:
            self._getting -= 1
            stream.left = stream.until - self._clock

    def _begin(self, stream: Stream) -> None:
        """Read its prompt, and what it has of its answer, and then have it wait for a token."""
        self.running += 1
        stream.begun = self._env.now
        read = (stream.prompt + stream.answer - stream.left) / self._engine.prompts
        self._reads_until = max(self._env.now, self._reads_until) + read
        stream.reads = True
        n = self.running
        self._enter(stream, self._engine.first[n] * self._engine.each[n])

    def _give(self, stream: Stream) -> None:
        """Have it get the tokens of its answer."""
        stream.reads = False
        self._getting += 1
        self._enter(stream, stream.left)

    def _enter(self, stream: Stream, tokens: float) -> None:
        stream.runs = True
        stream.until = self._clock + tokens
        heappush(self._next, (stream.until, next(self._number), stream, stream.ticket))

    def _admit(self) -> None:
        while self._waiting and self.has_seat:
            stream, ticket = self._queue.popleft()
            if ticket == stream.ticket:
                self._waiting -= 1
                self._begin(stream)

    def _wake_in_time(self) -> None:
        """Have an alarm when the next stream is due, or sooner: who wakes too soon looks again."""
        if not self._next:
            return
        now, each = self._env.now, self._engine.each[self.running or 1]
        due = max(now, self._reads_until) + max(0.0, self._next[0][0] - self._clock) / each
        if due < self._alarm_at:
            self._alarm, self._alarm_at = self._env.timeout(due - now), due
            self._alarm.callbacks.append(self._wake)

    def _wake(self, alarm: simpy.Event) -> None:
        if alarm is not self._alarm:
            return  # an earlier one was set since
        self._alarm, self._alarm_at = None, inf
        self.advance()
        whole = []
        while self._next and self._next[0][0] <= self._clock + _NEAR:
            _, _, stream, ticket = heappop(self._next)
            if ticket != stream.ticket:
                continue  # it was lost
            if stream.reads:
                stream.first = stream.first or self._env.now
                self._give(stream)
            else:
                self.running -= 1
                self._getting -= 1
                stream.ticket += 1
                stream.left = 0
                self._pace.ended(self._env.now - stream.begun)
                whole.append(stream)
        self._admit()
        self._wake_in_time()
        for stream in whole:
            self._ended(stream)
