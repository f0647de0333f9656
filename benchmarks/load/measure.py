"""One server after another, level by level: runs, warmed up and repeated, and checked answers."""

import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from load import kernel
from load.chats import Expected
from load.clients import Clients, Make, Share
from load.figures import Figures, figures, middle, without_clients
from load.servers import ServerProcess, free_port, serving

MakeFor: TypeAlias = Callable[[int], Make]
"""Says how a client process makes its caller, given the server's port."""


@dataclass(frozen=True)
class Contender:
    """A server, and the ways in which it is asked.

    Attributes:
        command: What Python runs, given a port; None: the client process is all there is.
        serves: Tells whether the server on a port serves.
        ways: By name; what the figures are under.
        lacks: Says why a way does not go with a server that runs; empty when it does.

    """

    ways: Mapping[str, MakeFor]
    command: Callable[[int], Sequence[str]] | None = None
    serves: Callable[[int], bool] = lambda _: True
    lacks: Callable[[str, int], str] = lambda _way, _port: ""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        levels: How many streams side by side.
        repeats: Runs of each level, after one that warms up.
        chats: At least so many in a run; where there are fewer streams, each asks several.
        clients: Processes that ask.
        logs: Folder for the logs of the servers.

    """

    levels: Sequence[int]
    repeats: int
    chats: int
    clients: int
    logs: Path


@dataclass
class Measured:
    """What came out: figures by way and level, and the ways that were left out, with the reason."""

    runs: dict[str, dict[int, list[Figures]]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def measure(contenders: Sequence[Contender], plan: Plan, expected: Expected) -> Measured:
    """Measure all of them.

    Raises:
        WrongAnswer: One answered wrongly.
        RuntimeError: One did not start, or a client process failed.

    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # a socket for each stream
    measured = Measured()
    for contender in contenders:
        port = free_port()
        if not contender.command:
            _ways(contender, port, None, plan, expected, measured)
            continue
        log = plan.logs / f"{next(iter(contender.ways))}.log"
        command = contender.command(port)
        _say(f"{' '.join(command)}\n")
        with serving(command, port, contender.serves, log) as server:
            _ways(contender, port, server, plan, expected, measured)
    return measured


def _ways(
    contender: Contender,
    port: int,
    server: ServerProcess | None,
    plan: Plan,
    expected: Expected,
    measured: Measured,
) -> None:
    for way, make_for in contender.ways.items():
        if reason := contender.lacks(way, port):
            measured.skipped[way] = reason
            _say(f"{way} is left out: {reason}\n")
            continue
        with Clients(make_for(port), plan.clients if server else 1, port) as clients:
            measured.runs[way] = {}
            for level in plan.levels:
                runs = [*_runs(clients, level, server, plan, expected)]
                measured.runs[way][level] = runs
                seen = middle(runs)
                _say(f"{way}, {level}: {seen['rate']:,.0f} tok/s, {seen['server_us']:.1f} us\n")


def _runs(
    clients: Clients, level: int, server: ServerProcess | None, plan: Plan, expected: Expected
) -> Iterator[Figures]:
    rounds = -(-plan.chats // level)
    _check(clients.run(level, 1), expected)
    for _ in range(plan.repeats):
        before = server.cpu() if server else 0.0
        shares = clients.run(level, rounds)
        same = _check(shares, expected)
        if server:
            yield figures(shares, server.cpu() - before, server.resident(), same)
        else:
            memory = kernel.resident(clients.pids[0])
            yield without_clients(figures(shares, shares[0].cpu, memory, same))


def _check(shares: Sequence[Share], expected: Expected) -> float:
    return expected.check([reply for share in shares for reply in share.replies])


def _say(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
