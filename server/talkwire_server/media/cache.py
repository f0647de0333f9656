"""Bytes that callers sent under a `cache_key`. Knows not what they are."""

from hashlib import sha256

from cachetools import LRUCache

_ENTRY = 1024  # bytes that an entry costs beside its medium's, rounded up


class MediaCache:
    """The least recently used bytes go first; a lost key is sent again.

    It is this replica's alone: behind a load balancer a `cache_id` may be unknown to the next one.
    Callers with different salts never meet; those without a salt share one room.

    Args:
        size: Bytes that it may hold; 0 keeps nothing.

    """

    def __init__(self, size: int) -> None:
        self._kept: LRUCache[bytes, bytes] = LRUCache(size, lambda data: len(data) + _ENTRY)

    def find(self, salt: str, key: str) -> bytes | None:
        """Return what is kept under a key."""
        return self._kept.get(_name(salt, key))

    def keep(self, salt: str, key: str, data: bytes) -> None:
        """Keep bytes in place of what was under the key; what is larger than all is not kept."""
        name = _name(salt, key)
        self._kept.pop(name, None)
        if len(data) + _ENTRY <= self._kept.maxsize:
            self._kept[name] = data


def _name(salt: str, key: str) -> bytes:
    """Make one short name of two texts of any length."""
    return sha256(f"{len(salt)} {salt}{key}".encode()).digest()
