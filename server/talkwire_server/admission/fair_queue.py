"""Who goes next: a queue in which no caller waits for another's flood. Knows no time and no tasks.

Each caller has a line of its own. A line is due when every other has had as many places, by weight,
as its first one wants (self-clocked fair queueing). So whoever waits gets its share, and nobody
saves anything up while he does not wait.
"""

from bisect import insort
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

from talkwire_server.callers import Caller


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """One that waits.

    Attributes:
        caller: Whose line it stands in.
        places: How many it needs.
        tokens: Of its prompt, about.
        priority: Within its line; the lowest goes first.

    """

    caller: Caller
    places: int = 1
    tokens: int = 0
    priority: int = 0


T = TypeVar("T", bound=Waiting)


class _Line(Generic[T]):
    """Those of one caller; `since` is the clock when the first of them became the first."""

    def __init__(self, weight: int, since: float) -> None:
        self.weight = weight
        self.since = since
        self.items: list[T] = []
        self.places = 0
        self.tokens = 0

    def due(self) -> float:
        return self.since + self.items[0].places / self.weight


class FairQueue(Generic[T]):
    """At most `most` that wait, with at most `most_tokens` together."""

    def __init__(self, most: int, most_tokens: int) -> None:
        self._most = most
        self._most_tokens = most_tokens
        self._lines: dict[str, _Line[T]] = {}
        self._clock = 0.0  # when the last one that went was due
        self._length = 0
        self._tokens = 0

    def __len__(self) -> int:
        return self._length

    def push(self, item: T, weights: int) -> list[T]:
        """Let one wait; return who must give way: the item itself, or others instead.

        A caller has its share of the queue by weight, `weights` being that of all callers who are
        about. Those that give way are the last of whoever has more than its share.
        """
        caller = item.caller
        line = self._lines.get(caller.name)
        length, tokens = (len(line.items), line.tokens) if line else (0, 0)
        full = self._is_over(self._length + 1, self._tokens + item.tokens)
        if (line or full) and self._is_over(
            (length + 1) * weights, (tokens + item.tokens) * weights, caller.weight
        ):
            return [item]
        if not line:
            line = self._lines[caller.name] = _Line(caller.weight, self._clock)
        insort(line.items, item, key=attrgetter("priority"))
        self._count(line, item, 1)
        gone = []
        while self._is_over(self._length, self._tokens):
            longest = max(self._lines.values(), key=self._load)
            gone.append(longest.items[-1])
            self.remove(gone[-1])
        return gone

    def pop(self, places: int) -> T | None:
        """Take out who goes next, unless it needs more places than these."""
        line = min(self._lines.values(), key=_Line.due, default=None)
        if line is None or line.items[0].places > places:
            return None
        self._clock = line.since = max(self._clock, line.due())
        item = line.items[0]
        self.remove(item)
        return item

    def remove(self, item: T) -> bool:
        """Take one out that may be in."""
        line = self._lines.get(item.caller.name)
        if line is None or item not in line.items:
            return False
        line.items.remove(item)
        self._count(line, item, -1)
        if not line.items:
            del self._lines[item.caller.name]
        return True

    def clear(self) -> list[T]:
        """Take all out."""
        items = [item for line in self._lines.values() for item in line.items]
        self._lines.clear()
        self._length = self._tokens = 0
        return items

    def ahead(self, item: T) -> float:
        """Estimate how many places go to others before an item that would now begin to wait."""
        caller = item.caller
        own = self._lines.get(caller.name) or _Line(caller.weight, self._clock)
        before = sum(other.places for other in own.items if other.priority <= item.priority)
        due = own.since + (before + item.places) / own.weight
        return before + sum(
            min(line.places, (due - line.since) * line.weight)
            for line in self._lines.values()
            if line is not own and line.since < due
        )

    def _count(self, line: _Line[T], item: T, sign: int) -> None:
        line.places += sign * item.places
        line.tokens += sign * item.tokens
        self._length += sign
        self._tokens += sign * item.tokens

    def _is_over(self, length: int, tokens: int, weight: int = 1) -> bool:
        return length > weight * self._most or tokens > weight * self._most_tokens

    def _load(self, line: _Line[T]) -> float:
        filled = max(len(line.items) / self._most, line.tokens / self._most_tokens)
        return filled / line.weight
