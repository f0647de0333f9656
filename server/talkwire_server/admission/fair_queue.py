"""Who goes next: a queue in which no caller waits for another's flood. Knows no time and no tasks.

Each caller has a line of its own. A line is due when every other has had as many places, by weight,
as its first one wants (self-clocked fair queueing). So whoever waits gets its share, and nobody
saves anything up while he does not wait.
"""

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Generic, NamedTuple, TypeVar

from talkwire_server.callers import Caller


class Size(NamedTuple):
    """How much a request is: tokens of its prompt, about, and bytes."""

    tokens: int = 0
    bytes: int = 0


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """One that waits.

    Attributes:
        caller: Whose line it stands in.
        places: How many it needs.
        size: Of its request.
        priority: Within its line; the lowest goes first.

    """

    caller: Caller
    places: int = 1
    size: Size = field(default_factory=Size)
    priority: int = 0

    @property
    def load(self) -> Sequence[int]:
        """What it adds to a queue: calls, tokens and bytes."""
        return 1, *self.size


T = TypeVar("T", bound=Waiting)


class _Line(Generic[T]):
    """Those of one caller; `since` is the clock when the first of them became the first."""

    def __init__(self, weight: int, since: float) -> None:
        self.weight = weight
        self.since = since
        self.items: list[T] = []
        self.places = 0
        self.load: Sequence[int] = (0, 0, 0)

    def due(self) -> float:
        return self.since + self.items[0].places / self.weight


class FairQueue(Generic[T]):
    """At most `most` that wait, with at most `most_size` together."""

    def __init__(self, most: int, most_size: Size) -> None:
        self._most = most, *most_size
        self._lines: dict[str, _Line[T]] = {}
        self._clock = 0.0  # when the last one that went was due
        self._load: Sequence[int] = (0, 0, 0)

    def __len__(self) -> int:
        return self._load[0]

    def push(self, item: T, weights: int) -> list[T]:
        """Let one wait; return who must give way: the item itself, or others instead.

        A caller has its share of the queue by weight, `weights` being that of all callers who are
        about. Those that give way are the last of whoever has more than its share.
        """
        caller = item.caller
        line = self._lines.get(caller.name)
        own = _sum(line.load, item.load) if line else item.load
        full = self._is_over(_sum(self._load, item.load))
        if (line or full) and self._is_over(own, caller.weight, weights):
            return [item]
        if not line:
            line = self._lines[caller.name] = _Line(caller.weight, self._clock)
        insort(line.items, item, key=attrgetter("priority"))
        self._count(line, item, 1)
        gone = []
        while self._is_over(self._load):
            longest = max(self._lines.values(), key=self._filled)
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
        self._load = (0, 0, 0)
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
        line.load = _sum(line.load, item.load, sign)
        self._load = _sum(self._load, item.load, sign)

    def _is_over(self, load: Sequence[int], weight: int = 1, weights: int = 1) -> bool:
        """Tell whether a load is more than its share of the queue."""
        pairs = zip(load, self._most, strict=True)
        return any(one * weights > most * weight for one, most in pairs)

    def _filled(self, line: _Line[T]) -> float:
        pairs = zip(line.load, self._most, strict=True)
        return max(one / most for one, most in pairs) / line.weight


def _sum(one: Sequence[int], other: Sequence[int], sign: int = 1) -> Sequence[int]:
    return [a + sign * b for a, b in zip(one, other, strict=True)]
