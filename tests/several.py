"""A server of several processes, and which of them has a connection."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc

from processes import ServerProcess, launched
from talkwire import Client

COUNT = 2  # frontends
OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0))


def children(pid: int) -> list[int]:
    """List the processes that a process started."""
    pids: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):
            pids += map(int, task.read_text().split())
    return pids


def descendants(pid: int) -> list[int]:
    """List them, and theirs."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def alive(pid: int) -> bool:
    """Tell whether a process runs, not only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def frontends(server: ServerProcess) -> list[int]:
    """List those of a server that live: the children of the process that they are forked in."""
    nursery = [pid for pid in children(server.process.pid) if _is_nursery(pid)]
    return [pid for one in nursery for pid in children(one) if alive(pid)]


class Several:
    """The frontends of a server."""

    def __init__(self, server: ServerProcess) -> None:
        self.server = server
        self.target = server.target

    @property
    def pids(self) -> list[int]:
        """Those that live."""
        return frontends(self.server)

    @contextmanager
    def client(self, pid: int) -> Iterator[Client]:
        """Connect to one of them, a client that never tries again."""
        while True:
            before = _sockets(pid)
            with Client(self.target, retry=None, channel_options=OWN) as client:
                grpc.channel_ready_future(client.channel).result(timeout=60)
                if _sockets(pid) > before:
                    yield client
                    return

    def settled(self, without: int) -> list[int]:
        """Wait until another has taken a process's place; return all."""
        while without in (pids := self.pids) or len(pids) < COUNT:
            time.sleep(0.02)
        return pids


@contextmanager
def several(*flags: str, **environment: str) -> Iterator[Several]:
    """Run a server of two frontends for the length of the block; if left, kill it."""
    with launched(f"--frontends={COUNT}", *flags, **environment) as server:
        yield Several(server)


def stopped(one: Several) -> tuple[int, str]:
    """Stop a server; return its exit status and what is left of its log."""
    one.server.signal(signal.SIGTERM)
    return one.server.ends()


def _is_nursery(pid: int) -> bool:
    return b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _sockets(pid: int) -> int:
    """Count the connections of a process."""
    found: set[Any] = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(fd.readlink())
    return sum("socket:" in str(one) for one in found)
