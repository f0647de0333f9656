"""Reads `file:` URIs below one folder. Knows not what the files are."""

import os
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

from talkwire_server.media.unreadable import Unreadable


class Folder:
    """The operator's folder, and nothing outside of it, wherever links may lead.

    Args:
        path: The folder.
        most: Bytes of the largest file that is read.

    """

    def __init__(self, path: str, most: int) -> None:
        self._named = Path(os.path.normpath(Path(path).absolute()))
        self._real = Path(path).resolve()
        self._most = most

    def read(self, uri: str) -> bytes:
        """Return what is in a file; blocks meanwhile.

        Raises:
            Unreadable: It cannot be read, whatever the reason is, or is too large.

        """
        try:
            data = self._read(_path(uri))
        except (OSError, ValueError):
            raise Unreadable("cannot be read") from None
        if len(data) > self._most:
            raise Unreadable(f"has more than {self._most} bytes")
        return data

    def _read(self, path: Path) -> bytes:
        # Before the disk is touched, so that not even the time tells what is outside.
        if not path.is_relative_to(self._named):
            raise PermissionError
        real = Path(os.path.realpath(path, strict=True))
        if not real.is_relative_to(self._real):
            raise PermissionError
        # Neither wait for a pipe's writer nor follow a link that has come up meanwhile.
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PermissionError
            return file.read(self._most + 1)


def _path(uri: str) -> Path:
    """Return the path of a URI, its dots resolved."""
    parts = urlsplit(uri)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise ValueError(uri)
    return Path(os.path.normpath(unquote(parts.path, errors="strict")))
