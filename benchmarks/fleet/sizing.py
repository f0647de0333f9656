"""How large a fleet must be: a guess by arithmetic, then simulated, and raised until it holds."""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil, exp, sqrt
from typing import TypeAlias

from fleet.measured import Measured
from fleet.replica import Engine
from fleet.scenario import Faults, Load
from fleet.simulation import Fleet
from load.figures import percentile
from talkwire_server.admission.gate import Bounds
from talkwire_server.settings.admission import AdmissionSettings

_ONE_IN_A_HUNDRED = 2.33  # standard deviations
_RARELY = 0.001  # part of the time in which more are down at once than are spare

_MAY_BE_NONE = {"refused", "streams", "prompt", "spread", "notice", "reconnect", "settle", "strike"}

Row: TypeAlias = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class Aims:
    """When a fleet is large enough.

    Attributes:
        rate: Tokens a second that 99 of 100 answers have at least.
        refused: Part of all calls that may be refused, at most.

    """

    rate: float = 20
    refused: float = 0.001


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How it is run.

    Attributes:
        seats: `--max-num-seqs` of an engine.
        prompts: Tokens of prompts a second that an engine reads.
        turns: Replicas are chosen in turn, not by their load.
        utilisation: Part of a core that frontends and proxies may use.
        proxy_cores: Cores of a proxy.
        per_connection: Streams of a client's connection.
        seconds: Of simulated time.

    """

    seats: int = 1024
    prompts: float = 100_000
    turns: bool = False
    utilisation: float = 0.6
    proxy_cores: int = 4
    per_connection: int = 64
    seconds: float = 40


class Sizing:
    """Finds the fleet for a load.

    Raises:
        ValueError: Names every figure that nobody measured, or that cannot be.

    """

    def __init__(
        self, measured: Measured, aims: Aims, load: Load, faults: Faults, setup: Setup
    ) -> None:
        bounds = Bounds.of(setup.seats, AdmissionSettings())
        most = max(1000, 2 * (bounds.places + bounds.queued))  # --max-concurrent-streams
        wrong = [*_wrong(aims, load, faults, setup)]
        if setup.seats > measured.most:
            wrong.append(f"--seats {setup.seats} is more than was measured: {measured.most}")
        if setup.per_connection > most:
            wrong.append(f"--per-connection {setup.per_connection} is more than {most}")
        if wrong:
            raise ValueError("; ".join(wrong))
        self._measured = measured
        self._aims = aims
        self._load = load
        self._faults = faults
        self._setup = setup
        self._engine = Engine(
            each=[measured.each(n) for n in range(setup.seats + 1)],
            first=[measured.first.at(n) for n in range(setup.seats + 1)],
            prompts=setup.prompts,
            places=bounds.places,
            queued=bounds.queued,
        )

    def fits(self, streams: int, seed: int, begin: int = 0) -> tuple[Row, Sequence[float]]:
        """Return the first fleet that holds, from so many engines on, and its rates in order.

        With `begin` 0 the first one tried is the guess.
        """
        guessed = self.guess(streams)
        replicas = begin or guessed
        while True:
            row, rates = self.simulate(streams, replicas, seed)
            row["guessed engines"] = guessed
            told = (f"{name} {value:,.4g}" for name, value in row.items())
            sys.stderr.write(f"{streams:,} streams: {', '.join(told)}\n")
            if self.holds(row):
                return row, rates
            replicas += max(1, replicas // 50)

    def holds(self, row: Row) -> bool:
        """Tell whether a fleet meets the aims."""
        fast = row["99 % have tok/s"] >= self._aims.rate
        return fast and row["refused %"] <= 100 * self._aims.refused

    def guess(self, streams: int) -> int:
        """Return load by rate, with a square root above it, and what may be down at once."""
        able = [n for n in range(1, self._setup.seats + 1) if self._rate(n) >= self._aims.rate]
        if not able:
            msg = f"no engine gives a stream {self._aims.rate:g} tokens a second"
            raise ValueError(msg)
        most = max(able)
        needed = ceil(streams / max(1, most - _ONE_IN_A_HUNDRED * sqrt(most)))
        return needed + self._down(needed)

    def _rate(self, n: int) -> float:
        """Return what each of so many streams gets while prompts are read, too."""
        each, load = self._engine.each[n], self._load
        return each / (1 + each * n * load.prompt / (load.answer * self._setup.prompts))

    def _down(self, replicas: int) -> int:
        """Return how many of the replicas are down at once but for the rarest times."""
        mean = replicas * self._faults.start / self._faults.mtbf
        chance = below = exp(-mean)
        down = 0
        while below < 1 - _RARELY and down < replicas:
            down += 1
            chance *= mean / down
            below += chance
        return max(1, down)

    def simulate(self, streams: int, replicas: int, seed: int) -> tuple[Row, Sequence[float]]:
        """Try one fleet."""
        random.seed(seed)  # Fleet and Pace draw from it
        setup, measured = self._setup, self._measured
        even = min(setup.seats, streams / replicas)
        tokens = streams * self._rate(ceil(even))
        messages = tokens * measured.messages.at(setup.per_connection * measured.clients)
        cores = messages * measured.proxy_us / 1e6
        proxies = 1 + ceil(cores / (setup.proxy_cores * setup.utilisation))
        down = min(self._down(replicas), replicas - 1)
        faults = replace(self._faults, replicas=down)
        load = replace(self._load, streams=streams)
        fleet = Fleet(self._engine, replicas, proxies, load, faults, turns=setup.turns)
        seen = fleet.run(setup.seconds)
        rates, amid, firsts = (sorted(one) for one in (seen.rates, seen.amid, seen.firsts))
        if not (rates and amid):
            raise ValueError("too few answers began and ended: give more --seconds")
        each = seen.tokens / setup.seconds / replicas
        connections = ceil(streams / setup.per_connection)
        held = connections * measured.connection_kb + streams * measured.stream_kb
        frontends = ceil(each * measured.frontend_us.at(even) / 1e6 / setup.utilisation)
        return {
            "engines": replicas,
            "frontends": frontends * replicas,
            "proxies": proxies,
            "client connections": connections,
            "GB of connections": held / 1e6,
            "tok/s p50": percentile(rates, 50),
            "99 % have tok/s": percentile(rates, 1),
            "amid a failure": percentile(amid, 1),
            "first token p99 s": percentile(firsts, 99),
            "tok/s an engine": each,
            "engines that died": seen.deaths,
            "calls": seen.came,
            "moved": seen.moved,
            "refused %": 100 * seen.refused / seen.came,
            "lost": seen.lost,
        }, rates


def _wrong(*parts: Aims | Load | Faults | Setup) -> Iterator[str]:
    """Find what cannot be."""
    for part in parts:
        for name, value in asdict(part).items():
            flag = f"--{name.replace('_', '-')}"
            if value < 0 or not (value or name in _MAY_BE_NONE or isinstance(value, bool)):
                yield f"{flag} {value:g} is too little"
            if name == "utilisation" and value > 1:
                yield f"{flag} {value:g} is more than a core"
