"""The line to the process of one grammar. Knows no grammars, and not what is asked.

A process listens in a folder of the server's, under the name of what it compiled; the one that
forks new ones listens there, too. A line breaks when a process was over its limits.
"""

import os
import socket
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Any

SOON = 1.0  # seconds in which a process is hardly over a limit but that of memory
ORIGIN = "origin"
FOLDER = "TALKWIRE_GRAMMARS"
"""Names the folder in the environment, which the engine's processes inherit."""


class Peer:
    """The near end of a line: to the process of that name, to a new one where there is none."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._path = Path(os.environ[FOLDER], name)
        self._is_new = False
        try:
            self._line = _connected(self._path)
        except (FileNotFoundError, ConnectionRefusedError):
            self._renew()
        self._lock = Lock()

    def begin(self, constraint: Any, stop_token_ids: set[int]) -> str:
        """Have a constraint compiled, first of all; return what is wrong with it.

        Raises:
            EOFError: The process was over its limits. So does `ask`.

        """
        question, begun = (self._name, constraint, stop_token_ids), monotonic()
        try:
            fault: str = self.ask(*question)
        except EOFError:
            if self._is_new and monotonic() - begun > SOON:
                raise
            self._renew()  # it ended as we came, or crashed
            fault = self.ask(*question)
        return fault

    def ask(self, *question: Any) -> Any:
        """Ask, and wait for the answer."""
        with self._lock:
            try:
                self._line.send(question)
                return self._line.recv()
            except (EOFError, OSError):
                self._path.unlink(missing_ok=True)
                raise EOFError from None

    def _renew(self) -> None:
        self._line, self._is_new = _connected(self._path.with_name(ORIGIN)), True

    @property
    def alive(self) -> bool:
        """Whether the process is there, which says nothing unasked."""
        return not self._line.poll()


def name_of(key: tuple[Any, str]) -> str:
    """Name what is compiled: by vLLM's word for its kind, and its text."""
    kind, text = key
    return sha256(f"{kind.name} {text}".encode()).hexdigest()[:32]


def listening(path: Path) -> socket.socket:
    """Listen on a path, in place of whoever did."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1024)
    return listener


def _connected(path: Path) -> Connection:
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(str(path))
        return Connection(line.detach())
