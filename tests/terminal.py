"""The `talkwire` command in processes of its own: through pipes, and in a pseudo-terminal."""

import os
import re
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pexpect

TALKWIRE = [sys.executable, "-m", "talkwire"]

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")
_PROMPT_BEGINS = "\x1b[?2004h"  # bracketed paste goes on with the prompt
_PROMPT_ENDS = "\x1b[?2004l"


class Terminal:
    """A pseudo-terminal that runs `talkwire chat`, wide enough to fold no line."""

    def __init__(self, child: Any) -> None:
        self.child = child

    def sees(self, text: str) -> str:
        """Wait until a text is shown; return what was shown before it."""
        self.child.expect_exact(text)
        return plain(self.child.before)

    def prompt(self) -> str:
        """Wait for the prompt; return what was shown before it."""
        return self.sees(_PROMPT_BEGINS).strip()

    def types(self, text: str) -> None:
        """Type a text and Enter; wait until it is taken."""
        self.child.send(text + "\r")
        self.child.expect_exact(_PROMPT_ENDS)

    def says(self, text: str) -> str:
        """Type a text and Enter; return what is shown until the next prompt."""
        self.types(text)
        return self.prompt()

    def interrupts(self) -> None:
        """Press Ctrl-C once the terminal turns it into a signal: while an answer is awaited."""
        while not termios.tcgetattr(self.child.fileno())[3] & termios.ISIG:
            time.sleep(0.01)
        self.child.sendintr()

    def leaves(self) -> int:
        """Press Ctrl-D; return the exit status."""
        self.child.send("\x04")
        return self.ends()

    def ends(self) -> int:
        """Wait for the end; return the exit status."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus)


def spawned(*command: str, columns: int, **environment: str) -> Any:
    """Run a program in a pseudo-terminal, whatever this process has of a terminal itself."""
    return pexpect.spawn(
        command[0],
        list(command[1:]),
        env=os.environ | {"TERM": "xterm", "COLUMNS": str(columns)} | environment,
        encoding="utf-8",
        timeout=60,
        dimensions=(50, columns),
    )


@contextmanager
def chatting(
    *arguments: str, command: list[str] = TALKWIRE, **environment: str
) -> Iterator[Terminal]:
    """Run `talkwire chat` in a pseudo-terminal; if it is there at the end, leave it."""
    environment = {"PROMPT_TOOLKIT_NO_CPR": "1", **environment}
    terminal = Terminal(spawned(*command, "chat", *arguments, columns=4000, **environment))
    try:
        yield terminal
        if terminal.child.isalive():
            terminal.leaves()
    finally:
        terminal.child.close(force=True)


def talkwire(*arguments: str, stdin: str | bytes = "", **environment: str) -> "Ended":
    """Run `talkwire` through pipes to its end."""
    given = stdin.encode() if isinstance(stdin, str) else stdin
    environ = os.environ | environment
    ended = subprocess.run(
        [*TALKWIRE, *arguments], input=given, capture_output=True, env=environ, check=False
    )
    return Ended(ended)


class Ended:
    """What a run of `talkwire` left."""

    def __init__(self, process: subprocess.CompletedProcess[bytes]) -> None:
        self.status = process.returncode
        self.out = process.stdout.decode()
        self.err = process.stderr.decode()


def plain(shown: str) -> str:
    """Take the escape sequences and carriage returns out of what a terminal was sent."""
    return _ESCAPES.sub("", shown)


def free_target() -> str:
    """Return an address of this machine where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"
