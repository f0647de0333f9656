"""How many engines, frontends, proxies and connections so many streams at once need: simulated.

    python benchmarks/capacity.py [--streams 10000,100000,1000000] [--rate 20] [--out FILE]
                                                    (needs talkwire[bench]; all flags: --help)

What one engine, frontend, connection and proxy can do is read from benchmarks/results; a million
streams take some minutes. docs/capacity.md says what is assumed, and what the model does not know.
"""

import argparse
import json
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeAlias

from fleet.measured import RESULTS, Measured
from fleet.plot import plot
from fleet.scenario import Faults, Load
from fleet.sizing import Aims, Setup, Sizing
from load import machine
from load.figures import percentile

WAY = "talkwire multiplexed, 4 frontends"
Part: TypeAlias = type[Aims] | type[Load] | type[Faults] | type[Setup]
FLAGS: dict[Part, dict[str, str]] = {
    Aims: {
        "rate": "tokens a second that 99 of 100 answers have, or more",
        "refused": "part of all calls that may be refused",
    },
    Load: {
        "prompt": "tokens of a prompt, mean, the conversation so far in it",
        "answer": "tokens of an answer, mean",
        "spread": "standard deviation of the logarithm of both; 0: all are the mean",
        "longest": "tokens of a prompt and its answer",
        "resume": "answers that broke off go on",
    },
    Setup: {
        "seats": "--max-num-seqs of an engine",
        "prompts": "tokens of prompts a second that an engine reads",
        "turns": "replicas are chosen in turn, not by their load",
        "utilisation": "part of a core that frontends and proxies use",
        "proxy_cores": "of a proxy",
        "per_connection": "streams of a client's connection",
        "seconds": "of simulated time",
    },
    Faults: {
        "mtbf": "seconds between failures of one replica, mean",
        "start": "seconds until a replica that died serves again",
        "notice": "seconds until its callers know",
        "proxy_mtbf": "seconds between failures of one proxy, mean",
        "proxy_start": "seconds until a proxy that died serves again",
        "reconnect": "seconds until all its callers have another one",
        "settle": "seconds after a death whose answers are counted apart",
        "strike": "second in which as many replicas die as are spare, and a proxy",
    },
}
"""Of each part the fields that are flags, too."""


def parser() -> argparse.ArgumentParser:
    """Make a parser; defaults are the parts' own."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--streams", default="10000,100000,1000000", help="at once (%(default)s)")
    made.add_argument("--way", default=WAY, help="of asking, in engines-h100.json (%(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    made.add_argument("--results", type=Path, default=RESULTS, help="the folder", metavar="DIR")
    made.add_argument("--out", type=Path, help="write FILE.json and FILE.png", metavar="FILE")
    for part, flags in FLAGS.items():
        for field in fields(part):
            if field.name not in flags:
                continue
            assert field.default is not MISSING
            kind: dict[str, Any] = {"type": type(field.default)}
            if isinstance(field.default, bool):
                kind = {"action": argparse.BooleanOptionalAction}
            made.add_argument(
                f"--{field.name.replace('_', '-')}",
                default=field.default,
                help=f"{flags[field.name]} (%(default)s)",
                **kind,
            )
    return made


def part(kind: Any, flags: argparse.Namespace, **more: Any) -> Any:
    """Make a part of what the flags say."""
    return kind(**{name: getattr(flags, name) for name in FLAGS[kind]}, **more)


def main() -> None:
    """Simulate."""
    flags = parser().parse_args()
    try:
        measured = Measured.read(flags.way, flags.results)
        sizing = Sizing(
            measured,
            part(Aims, flags),
            part(Load, flags, streams=0),
            part(Faults, flags),
            part(Setup, flags),
        )
        sizes = [int(size) for size in flags.streams.split(",")]
        found = {f"{size:,}": sizing.fits(size, flags.seed) for size in sizes}
    except ValueError as error:
        sys.exit(str(error))
    for name, (row, _) in found.items():
        print(f"{name} streams", *(f"{key} {value:,.4g}" for key, value in row.items()), sep="\n  ")
    if flags.out:
        kept = {
            name: value for name, value in vars(flags).items() if name not in ("out", "results")
        }
        here = machine.describe()
        content = {
            "benchmark": "capacity",
            "machine": {name: here[name] for name in ("date", "commit", "python") if name in here},
            "rows": "streams at once",
            "settings": kept,
            "sources": measured.sources,
            "ways": {name: row for name, (row, _) in found.items()},
            "rates": {
                name: [percentile(rates, percent) for percent in range(1, 100)]
                for name, (_, rates) in found.items()
            },
        }
        flags.out.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
        plot(content, flags.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
