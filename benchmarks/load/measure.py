"""One server after another, level by level: runs, warmed up and repeated, and checked answers."""

import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from load import kernel
from load.chats import Expected, WrongAnswer
from load.clients import ClientFailed, Clients, Make, Share
from load.figures import Figures, figures, middle, without_clients
from load.servers import NotServing, ServerProcess, free_port, serving

ROUNDS = 16  # chats of a stream in a run, at most

MakeFor: TypeAlias = Callable[[int], Make]
"""Says how a client process makes its caller, given the server's port."""


@dataclass(frozen=True)
class Contender:
    """A server, and the ways in which it is asked.

    Attributes:
        command: What Python runs, given a port; None: the client process is all there is.
        serves: Tells whether the server on a port serves.
        ways: By name; what the figures are under.

    """

    ways: Mapping[str, MakeFor]
    command: Callable[[int], Sequence[str]] | None = None
    serves: Callable[[int], bool] = lambda _: True


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        levels: How many streams side by side.
        repeats: Runs of each level, after one that warms up.
        chats: At least so many in a run: where there are fewer streams, each asks several in turn,
            but no more than ROUNDS.
        clients: Processes that ask.
        logs: Folder for the logs of the servers.

    """

    levels: Sequence[int]
    repeats: int
    chats: int
    clients: int
    logs: Path


class Measurement:
    """Measures servers, one at a time. One that fails leaves the others' figures alone.

    Attributes:
        runs: Figures by way and level, of each repeat.
        failed: The ways that failed, and why: a wrong answer, or none.

    """

    def __init__(self, plan: Plan, expected: Expected) -> None:
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each stream
        self._plan = plan
        self._expected = expected
        self.runs: dict[str, dict[int, list[Figures]]] = {}
        self.failed: dict[str, str] = {}

    def add(self, contender: Contender) -> None:
        """Measure one."""
        port = free_port()
        if not contender.command:
            self._ways(contender, port, None)
            return
        log = self._plan.logs / f"{next(iter(contender.ways))}.log"
        command = contender.command(port)
        _say(f"{' '.join(command)}\n")
        try:
            with serving(command, port, contender.serves, log) as server:
                self._ways(contender, port, server)
        except NotServing as error:
            self.failed |= dict.fromkeys(contender.ways, str(error))

    def _ways(self, contender: Contender, port: int, server: ServerProcess | None) -> None:
        for way, make_for in contender.ways.items():
            try:
                self._levels(way, make_for(port), port, server)
            except (ClientFailed, WrongAnswer) as error:
                self.runs.pop(way, None)
                self.failed[way] = str(error)
                _say(f"{way} failed: {error}\n")

    def _levels(self, way: str, make: Make, port: int, server: ServerProcess | None) -> None:
        with Clients(make, self._plan.clients if server else 1, port) as clients:
            self.runs[way] = {}
            for level in self._plan.levels:
                self.runs[way][level] = [*self._repeats(clients, level, server)]
                seen = middle(self.runs[way][level])
                _say(f"{way}, {level}: {seen['rate']:,.0f} tok/s, {seen['server_us']:.1f} us\n")

    def _repeats(
        self, clients: Clients, level: int, server: ServerProcess | None
    ) -> Iterator[Figures]:
        rounds = min(ROUNDS, -(-self._plan.chats // level))
        self._check(clients.run(level, 1))
        for _ in range(self._plan.repeats):
            before = server.cpu() if server else 0.0
            shares = clients.run(level, rounds)
            if server:
                cpu, memory = server.cpu() - before, server.resident()
                yield figures(shares, cpu, memory, self._check(shares))
            else:
                memory = kernel.resident(clients.pids[0])
                told = figures(shares, shares[0].cpu, memory, self._check(shares))
                yield without_clients(told)

    def _check(self, shares: Sequence[Share]) -> float:
        return self._expected.check([reply for share in shares for reply in share.replies])


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
