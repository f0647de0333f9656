"""What was measured, as a table, as a file, and where gRPC did not win. Measures nothing."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from load.figures import METRICS, Figures, middle
from load.measure import Measurement

RAW = "raw"
BARE = "grpc"  # checks nothing: no server that anybody runs
LOST = "Where gRPC does not win (medians; the least and the most in brackets):"
OURS = "talkwire"  # begins the name of each of our ways


class Result:
    """A result, as its file has it; medians are of the repeats."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content

    @classmethod
    def of(
        cls,
        name: str,
        machine: Mapping[str, str],
        settings: Mapping[str, Any],
        measured: Measurement,
    ) -> "Result":
        """Put one together."""
        told = {"benchmark": name, "machine": machine, "settings": settings}
        parts = {part: getattr(measured, part) for part in ("runs", "failed")}
        return cls(json.loads(json.dumps({**told, **parts})))

    @classmethod
    def read(cls, file: Path) -> "Result":
        """Read one."""
        return cls(json.loads(file.read_text(encoding="utf-8")))

    def write(self, file: Path) -> None:
        """Write it; the figures with four digits."""
        content = json.loads(
            json.dumps(self.content), parse_float=lambda text: float(f"{float(text):.4g}")
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @property
    def ways(self) -> Sequence[str]:
        """The ways that were measured."""
        return list(self.content["runs"])

    @property
    def levels(self) -> Sequence[int]:
        """The levels that were measured."""
        return sorted({int(level) for runs in self.content["runs"].values() for level in runs})

    def repeats(self, way: str, level: int) -> list[Figures]:
        """Return the figures of each run; empty where there was none."""
        runs: list[Figures] = self.content["runs"].get(way, {}).get(str(level), [])
        return runs

    def median(self, way: str, level: int) -> Figures:
        """Return the median figures; empty where there was no run."""
        repeats = self.repeats(way, level)
        return middle(repeats) if repeats else {}

    def beside_raw(self, way: str, level: int) -> tuple[str, str]:
        """Say what part of the bare engine's rate this is, and how much CPU a token it adds."""
        raw, own = self.median(RAW, level), self.median(way, level)
        if not raw or not own or way == RAW:
            return "", ""
        return f"{own['rate'] / raw['rate']:.2f}", f"{own['server_us'] - raw['server_us']:.1f}"


def text(result: Result) -> str:
    """Lay a result out for a terminal: medians, and of the rate the least and the most."""
    head = ["streams", "", METRICS["rate"].title, "of raw", "us above raw"]
    rows = [head + [metric.title for metric in METRICS.values()][1:]]
    rows += [
        [str(level), way, *_cells(result, way, level, repeats)]
        for level in result.levels
        for way in result.ways
        if (repeats := result.repeats(way, level))
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:>{w}}" for cell, w in zip(row, widths, strict=True)) for row in rows]
    lines += [f"{way} failed: {why}" for way, why in result.content["failed"].items()]
    lost = [*losses(result)] or ["nowhere"]
    return "\n".join([*lines, "", LOST, *lost])


def _cells(result: Result, way: str, level: int, repeats: Sequence[Figures]) -> Iterator[str]:
    medians = middle(repeats)
    yield ranged([one["rate"] for one in repeats], METRICS["rate"].digits)
    yield from result.beside_raw(way, level)
    for name, metric in [*METRICS.items()][1:]:
        yield f"{medians[name]:,.{metric.digits}f}" if name in medians else ""


def losses(result: Result) -> Iterator[str]:
    """Name each figure whose median is better at another server."""
    for level in result.levels:
        for way in (way for way in result.ways if way.startswith(OURS)):
            for other in (way for way in result.ways if not way.startswith((RAW, BARE, OURS))):
                if lost := [*_lost(result.repeats(way, level), result.repeats(other, level))]:
                    yield f"{level} streams, {way} against {other}: {'; '.join(lost)}"


def _lost(ours: Sequence[Figures], theirs: Sequence[Figures]) -> Iterator[str]:
    for name, metric in METRICS.items():
        mine, others = ([one[name] for one in runs if name in one] for runs in (ours, theirs))
        if mine and others and metric.less is not None:
            less = median(others) < median(mine)
            a, b = (ranged(values, metric.digits) for values in (mine, others))
            if a != b and less == metric.less:
                yield f"{metric.title} {a} to {b}"


def ranged(values: Sequence[float], digits: int) -> str:
    """Write the median, and the least and the most."""
    middle, least, most = (f"{of(values):,.{digits}f}" for of in (median, min, max))
    return f"{middle} ({least}-{most})"
