"""How fast calls end, and so how long waits are. Knows no queue."""

from random import uniform

from talkwire_server.errors import RETRY_AFTER

_MEMORY = 16  # calls; of so many the present pace is a mean
_SOONEST, _LATEST = 0.1, 30.0  # seconds


class Pace:
    """The mean time that a call keeps its places; 0 while none has ended."""

    def __init__(self) -> None:
        self._ended = 0
        self._seconds = 0.0

    def ended(self, seconds: float) -> None:
        """Learn how long a call kept its places."""
        self._ended = min(self._ended + 1, _MEMORY)
        self._seconds += (seconds - self._seconds) / self._ended

    def wait(self, ends: float, places: int) -> float:
        """Estimate the seconds until so many of the calls in these places have ended."""
        return self._seconds * ends / places

    def retry_after(self, ends: float, places: int) -> float:
        """Make of that a delay for whoever is refused; not quite the same for each of a wave."""
        wait = self.wait(ends, places) or RETRY_AFTER
        return min(max(wait, _SOONEST), _LATEST) * uniform(0.8, 1.2)  # noqa: S311  # no secret
