"""Files that are read again when they change. Knows not what is in them."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from talkwire_server.engine import StartError

log = logging.getLogger("talkwire")

T = TypeVar("T")


def content(path: str) -> bytes:
    """Read a file; StartError, which names it, where that fails."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise StartError(f"{path}: cannot be read: {error.strerror}") from None


class Watched(Generic[T]):
    """What `read` makes of files. A change that it cannot read is logged once, and passed over.

    Attributes:
        value: What was made of them when they were last good.

    """

    def __init__(self, read: Callable[[], T], *paths: str) -> None:
        self._read = read
        self._paths = paths
        self._seen = [*map(_state, paths)]
        self.value = read()

    def changed(self) -> bool:
        """Tell of each change once; `read_again` is then due. Costs a `stat` a file."""
        before, self._seen = self._seen, [*map(_state, self._paths)]
        return self._seen != before

    async def latest(self) -> T:
        """Return the value, read again off the event loop if there was a change."""
        if self.changed():
            await asyncio.to_thread(self.read_again)
        return self.value

    def read_again(self) -> None:
        """Make the value anew, or keep it."""
        try:
            self.value = self._read()
        except StartError as error:
            log.error("%s; what was there before stays in use", error)
        else:
            log.info("read again: %s", ", ".join(self._paths))


def _state(path: str) -> tuple[int, ...]:
    try:
        found = Path(path).stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
