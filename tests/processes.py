"""Programs in processes of their own: an echo server, and tools that run to their end."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

ROOT = Path(__file__).parent.parent
GRPCURL = Path(sys.executable).with_name("grpcurl")
BUF = ROOT / "tests/node/node_modules/.bin/buf"


class ServerProcess:
    """`talkwire_server` in a process of its own; its log is read as far as a test asks."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._log: SimpleQueue[str | None] = SimpleQueue()
        self._reader = Thread(target=self._read, daemon=True)  # else it would wait for one
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stderr or ():
            self._log.put(line)
        self._log.put(None)

    @cached_property
    def target(self) -> str:
        """Where it serves, once it does."""
        return self.logs(" serving ").rpartition(" on ")[2].split()[0]

    def logs(self, text: str) -> str:
        """Wait until the server logs a line with this text; return the line."""
        seen = []
        for line in iter(self._log.get, None):
            seen.append(line)
            if text in line:
                return line
        self._log.put(None)
        raise AssertionError(f"the server ended without {text!r}:\n{''.join(seen)}")

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it, if it is still there."""
        self.process.kill()
        self._reader.join()

    def ends(self) -> tuple[int, str]:
        """Write no more to it and wait for its end; return its status, and what nobody read."""
        if self.process.stdin:
            self.process.stdin.close()
        log = "".join(iter(self._log.get, None))
        return self.process.wait(), log


@contextmanager
def launched(
    *flags: str, program: Sequence[str] = ("-m", "talkwire_server"), **environment: str
) -> Iterator[ServerProcess]:
    """Run a server with an echo engine on a free port; if it is there at the end, kill it."""
    command = [sys.executable, *program, "--engine=echo", "--port=0", *flags]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="backslashreplace",  # gRPC logs what peers send as it is
        env=os.environ | environment,
    ) as process:
        server = ServerProcess(process)
        try:
            yield server
        finally:
            server.kill()


@contextmanager
def serving(*flags: str) -> Iterator[str]:
    """Run an echo server for the length of the block; yield its address."""
    with launched(*flags) as server:
        yield server.target
        server.signal(signal.SIGTERM)
        server.ends()


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a program in the project's folder, with nothing to read, and let it fail."""
    return subprocess.run(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
