"""A fleet in simulated time: callers ask, proxies choose, replicas answer, and some of both die.

There are always as many streams as callers: who has an answer asks the next. The time begins amid
answers, as it would be found at any moment: long ones are met more often, at any of their tokens.
"""

import random
from collections.abc import Generator, Sequence
from itertools import accumulate
from typing import Any

import simpy

from fleet.replica import Engine, Replica
from fleet.scenario import Faults, Load
from fleet.seen import Seen
from fleet.stream import Stream
from talkwire import Retry

_OTHERS = 3  # that a call is tried at, at once, when one is full: `num_retries` of a proxy
_PAUSE = 0.1  # seconds at most until a client goes on elsewhere


class Proxy:
    """Chooses replicas by what it knows itself: how many calls of its own each has."""

    def __init__(self, replicas: int, *, turns: bool) -> None:
        self.up = True
        self.calls = [0] * replicas
        self._turns = turns
        self._turn = random.randrange(replicas)

    def choose(self, able: Sequence[int]) -> int:
        """Choose the better of two by chance, or the next in turn."""
        if self._turns:
            self._turn += 1
            return able[self._turn % len(able)]
        a, b = (able[int(random.random() * len(able))] for _ in range(2))
        return a if self.calls[a] < self.calls[b] else b


class Fleet:
    """All of it.

    Args:
        engine: What each replica can do.
        replicas: How many.
        proxies: How many.
        load: What is asked.
        faults: What dies.
        turns: Proxies choose in turn, and not by how many calls each replica has.

    """

    def __init__(
        self,
        engine: Engine,
        replicas: int,
        proxies: int,
        load: Load,
        faults: Faults,
        *,
        turns: bool = False,
    ) -> None:
        self._env = simpy.Environment()
        self._load = load
        self._faults = faults
        self._tries = Retry().attempts
        self._replicas = [Replica(self._env, engine, self._answered) for _ in range(replicas)]
        self._proxies = [Proxy(replicas, turns=turns) for _ in range(proxies)]
        self._able = [*range(replicas)]
        self._calm_from = 0.0
        self._seen = Seen()
        self._drawn = load.drawn(1 << 16)
        self._streams = [Stream(number % proxies) for number in range(load.streams)]

    def run(self, seconds: float) -> Seen:
        """Let the time pass; tell what was seen."""
        self._begin()
        for number in range(len(self._replicas)):
            self._env.process(self._replica_lives(number, number < self._faults.replicas))
        for number in range(len(self._proxies)):
            self._env.process(self._proxy_lives(number, number < self._faults.proxies))
        self._env.run(until=seconds)
        self._seen.there = sum(stream.left > 0 for stream in self._streams)
        for replica in self._replicas:
            replica.advance()
        self._seen.tokens = sum(replica.tokens for replica in self._replicas)
        return self._seen

    def _begin(self) -> None:
        ends = [*accumulate(answer for _, answer in self._drawn)]
        for number, stream in enumerate(self._streams):
            (lengths,) = random.choices(self._drawn, cum_weights=ends)
            stream.ask(-1, *lengths)
            stream.left *= 1 - random.random()
            stream.first = -1
            self._seen.came += 1
            at = number % len(self._replicas)
            if self._replicas[at].has_seat:
                self._put(stream, at)
                self._replicas[at].go_on(stream)
            else:
                stream.left = stream.answer
                self._place(stream)

    def _put(self, stream: Stream, at: int) -> None:
        stream.replica = at
        self._proxies[stream.proxy].calls[at] += 1

    def _leave(self, stream: Stream) -> None:
        self._proxies[stream.proxy].calls[stream.replica] -= 1
        stream.replica = -1

    def _ask(self, stream: Stream) -> None:
        stream.ask(self._env.now, *self._drawn[int(random.random() * len(self._drawn))])
        self._seen.came += 1
        self._place(stream)

    def _place(self, stream: Stream) -> None:
        """Have a call go to a replica, or come again later, or fail."""
        proxy, after = self._proxies[stream.proxy], 1.0
        for _ in range(1 + _OTHERS if self._able else 0):
            at = proxy.choose(self._able)
            if not (after := self._replicas[at].take(stream)):
                self._put(stream, at)
                return
        stream.tries += 1
        goes_on = stream.left < stream.answer  # such a call has no other end than its timeout
        if stream.tries < self._tries or goes_on:
            self._later(after, stream)
        else:
            self._seen.refused += 1
            stream.left = 0
            self._later(after, stream, anew=True)

    def _later(self, seconds: float, stream: Stream, *, anew: bool = False) -> None:
        then = self._ask if anew else self._place
        self._env.timeout(seconds).callbacks.append(lambda _: then(stream))

    def _answered(self, stream: Stream) -> None:
        self._leave(stream)
        seen, now = self._seen, self._env.now
        seen.answered += 1
        if stream.asked >= 0:
            rates = seen.rates if stream.asked >= self._calm_from else seen.amid
            rates.append(stream.answer / (now - stream.first))
            seen.firsts.append(stream.first - stream.asked)
        self._ask(stream)

    def _broke(self, streams: Sequence[Stream], within: float, after: float = 0) -> None:
        """Have streams go on that lost their replica or proxy, once they know."""
        self._calm_from = self._env.now + self._faults.settle
        for stream in streams:
            pause = after + random.random() * within
            if self._load.resume:
                self._seen.moved += 1
            else:
                self._seen.lost += 1
                stream.left = 0
            self._later(pause, stream, anew=not self._load.resume)

    def _replica_lives(self, number: int, strikes: bool) -> Generator[simpy.Event, Any, None]:
        faults = self._faults
        until = faults.strike if strikes else random.expovariate(1 / faults.mtbf)
        while True:
            yield self._env.timeout(until)
            streams = [stream for stream in self._streams if stream.replica == number]
            self._replicas[number].die(streams)
            self._able.remove(number)
            self._seen.deaths += 1
            for stream in streams:
                self._leave(stream)
            self._broke(streams, _PAUSE, faults.notice)
            yield self._env.timeout(faults.start)
            self._able.append(number)
            until = random.expovariate(1 / faults.mtbf)

    def _proxy_lives(self, number: int, strikes: bool) -> Generator[simpy.Event, Any, None]:
        faults = self._faults
        until = faults.strike if strikes else random.expovariate(1 / faults.proxy_mtbf)
        while True:
            yield self._env.timeout(until)
            others = [n for n, one in enumerate(self._proxies) if one.up and n != number]
            if others:  # else nobody could ask, and nothing could be learned
                self._proxies[number].up = False
                streams = [stream for stream in self._streams if stream.proxy == number]
                here = [stream for stream in streams if stream.replica >= 0]
                for stream in here:
                    self._replicas[stream.replica].lose(stream)
                    self._leave(stream)
                for stream in streams:
                    stream.proxy = random.choice(others)
                self._broke(here, faults.reconnect)
            yield self._env.timeout(faults.proxy_start)
            self._proxies[number].up = True
            until = random.expovariate(1 / faults.proxy_mtbf)
