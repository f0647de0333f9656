"""What a fleet has to bear: what callers ask, and what dies. Simulates nothing."""

import random
from dataclasses import dataclass
from math import log


@dataclass(frozen=True, kw_only=True)
class Load:
    """What callers ask. Lengths are log-normal.

    Attributes:
        streams: At once.
        prompt: Mean tokens of a prompt, with the conversation so far.
        answer: Mean tokens of an answer.
        spread: Standard deviation of the logarithm of both.
        longest: Tokens of a prompt and its answer, at most.
        resume: Whether an answer that broke off goes on.

    """

    streams: int
    prompt: float = 256
    answer: float = 256
    spread: float = 1.0
    longest: int = 2048
    resume: bool = True

    def drawn(self, count: int) -> list[tuple[int, int]]:
        """Draw prompts with their answers."""
        return [(self._length(self.prompt), self._length(self.answer)) for _ in range(count)]

    def _length(self, mean: float) -> int:
        if not (self.spread and mean):
            return round(mean)
        drawn = random.lognormvariate(log(mean) - self.spread**2 / 2, self.spread)
        return max(1, min(self.longest // 2, round(drawn)))


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What dies, and how soon it is back; in seconds.

    Attributes:
        mtbf: Mean time between failures of one replica.
        start: From a replica's death until it serves again.
        notice: From then until its callers know.
        proxy_mtbf: Mean time between failures of one proxy.
        proxy_start: From a proxy's death until it serves again.
        reconnect: Until all of its callers have another one.
        settle: After a death; answers asked until then, and those under way, are counted apart.
        strike: When this many replicas and proxies die at once, besides.
        replicas: How many.
        proxies: How many; there must be others.

    """

    mtbf: float = 86_400
    start: float = 60
    notice: float = 2
    proxy_mtbf: float = 7 * 86_400
    proxy_start: float = 10
    reconnect: float = 1
    settle: float = 10
    strike: float = 5
    replicas: int = 1
    proxies: int = 1
