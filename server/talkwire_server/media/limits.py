"""How much the media of one request may have. Knows not of what."""

from talkwire_server.media.unreadable import Unreadable


class Limit:
    """Counts, over the media of one request, what each of them has.

    Args:
        each: How many one medium may have.
        total: How many all of them may have.
        unit: Of what, in the plural.

    """

    def __init__(self, each: int, total: int, unit: str) -> None:
        self._each = each
        self._total = self._left = total
        self._unit = unit

    def take(self, count: int) -> None:
        """Count one medium in, or raise `Unreadable` if it or all of them have too many."""
        if count > self._each:
            raise Unreadable(f"has more than {self._each} {self._unit}")
        if count > self._left:
            raise Unreadable(f"brings the request to more than {self._total} {self._unit}")
        self._left -= count
