"""The command line of the benchmarks: how much is measured, and where the result goes."""

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from load import machine
from load.chats import Expected
from load.measure import Contender, Measurement, Plan
from load.plot import plot
from load.report import Result, text


def parser(doc: str, servers: Sequence[str], default_levels: str) -> argparse.ArgumentParser:
    """Make a parser with the flags that all benchmarks have."""
    made = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--levels", default=default_levels, help="streams side by side (%(default)s)")
    made.add_argument("--servers", default=",".join(servers), help="which (%(default)s)")
    made.add_argument(
        "--frontends", type=int, default=1, help="of one talkwire more, if more than 1"
    )
    made.add_argument("--repeats", type=int, default=3, help="runs of each level (%(default)s)")
    made.add_argument("--chats", type=int, default=512, help="in a run, or more (%(default)s)")
    made.add_argument("--tokens", type=int, default=128, help="of each answer (%(default)s)")
    cores = len(os.sched_getaffinity(0))
    made.add_argument(
        "--clients", type=int, default=max(2, min(8, cores // 2)), help="processes (%(default)s)"
    )
    made.add_argument("--out", type=Path, help="write FILE.json and FILE.png", metavar="FILE")
    made.add_argument("--logs", type=Path, help="keep the servers' logs in DIR", metavar="DIR")
    return made


def levels(flags: argparse.Namespace) -> list[int]:
    """Read the levels."""
    return [int(level) for level in flags.levels.split(",")]


def run(
    name: str,
    flags: argparse.Namespace,
    contenders: Mapping[str, Contender],
    expected: Expected,
    settings: Mapping[str, Any],
) -> None:
    """Measure what the flags want, and show it."""
    if flags.frontends > 1 and "frontends" not in flags.servers:
        flags.servers += ",frontends"
    if unknown := set(flags.servers.split(",")) - set(contenders):
        sys.exit(f"no such server: {', '.join(unknown)}; there are {', '.join(contenders)}")
    kept = {key: getattr(flags, key) for key in ("repeats", "chats", "tokens", "clients")}
    with tempfile.TemporaryDirectory() as temporary:
        logs = flags.logs or Path(temporary)
        logs.mkdir(parents=True, exist_ok=True)
        plan = Plan(levels(flags), flags.repeats, flags.chats, flags.clients, logs)
        measurement = Measurement(plan, expected)
        for one in flags.servers.split(","):
            measurement.add(contenders[one])
            result = Result.of(name, machine.describe(), {**kept, **settings}, measurement)
            if flags.out:
                result.write(flags.out.with_suffix(".json"))
    sys.stdout.write(text(result) + "\n")
    if flags.out:
        plot(result, flags.out.with_suffix(".png"))
    if measurement.failed:
        sys.exit(1)
