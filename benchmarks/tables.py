"""The tables in README and docs, made from the results in benchmarks/results.

python benchmarks/tables.py [--write]      (default: print them)
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from load.figures import METRICS
from load.report import LOST, RAW, Result, losses, ranged

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results"
PAGES = {
    "README.md": ["engines-h200"],
    "docs/balancing.md": ["stickiness-cpu"],
    "docs/performance.md": [],
    "docs/capacity.md": ["capacity"],
}
"""Pages, and the results on them; none: all that were measured."""
SIMULATED = "capacity"
BEGIN, END = "<!-- made by benchmarks/tables.py -->", "<!-- end -->"

SHOWN = (
    "ttft_p50",
    "ttft_p99",
    "gap_p99",
    "server_us",
    "client_us",
    "bytes",
    "messages",
    "busiest_client",
)
FEW = (64, 256, 512)
FEW_SHOWN = ("ttft_p50", "server_us", "client_us")
MACHINE = ("gpu", "cpu", "cores", "python", "vllm", "grpcio", "commit", "date")


def tables(names: Sequence[str]) -> str:
    """Make the text between the marks of a page: of results what decides, or all of all."""
    if names:
        told = [_told(Result.read(RESULTS / f"{name}.json"), FEW, FEW_SHOWN) for name in names]
    else:
        files = [file for file in sorted(RESULTS.glob("*.json")) if file.stem != SIMULATED]
        told = [_whole(file) for file in files]
    return "\n\n".join("\n".join(lines) for lines in told)


def _whole(file: Path) -> Iterator[str]:
    result = Result.read(file)
    yield f"### {file.stem}"
    yield ""
    yield from _told(result, result.levels if "runs" in result.content else ())
    if "runs" in result.content:
        yield ""
        yield LOST
        yield ""
        yield from (f"- {loss}" for loss in [*losses(result)] or ["nowhere"])
        if (picture := file.with_suffix(".png")).exists():
            yield ""
            yield f"![{file.stem}](../{picture.relative_to(ROOT)})"


def _told(result: Result, levels: Sequence[int], shown: Sequence[str] = SHOWN) -> Iterator[str]:
    machine = result.content["machine"]
    known = [f"{name} {machine[name]}" for name in MACHINE if name in machine]
    settings = [f"{name} {value}" for name, value in result.content["settings"].items()]
    yield f"`benchmarks/{result.content['benchmark']}.py` on {', '.join(known)}:"
    yield ""
    if "runs" in result.content:
        yield from _runs(result, levels, shown)
    else:
        yield from _ways(result)
    yield ""
    yield f"({'; '.join(one for one in settings if not one.startswith('engine_flags'))})"


def _runs(result: Result, levels: Sequence[int], shown: Sequence[str]) -> Iterator[str]:
    beside = ("of raw", "us above raw") if RAW in result.ways else ()
    titles = ("streams", "", "tok/s", *beside, *(METRICS[name].title for name in shown))
    yield _row(*titles)
    yield _row(*["---"] * len(titles))
    for level in levels:
        for way in result.ways:
            if median := result.median(way, level):
                cells = [
                    f"{median[name]:,.{METRICS[name].digits}f}" if name in median else ""
                    for name in shown
                ]
                ratio = result.beside_raw(way, level) if beside else ()
                rates = [one["rate"] for one in result.repeats(way, level)]
                yield _row(str(level), way, ranged(rates, 0), *ratio, *cells)


def _ways(result: Result) -> Iterator[str]:
    ways = result.content["ways"]
    names = list(dict.fromkeys(name for figures in ways.values() for name in figures))
    yield _row(result.content.get("rows", ""), *names)
    yield _row(*["---"] * (1 + len(names)))
    for way, figures in ways.items():
        yield _row(way, *(_figure(figures[name]) if name in figures else "" for name in names))


def _figure(value: float) -> str:
    """Write whole numbers whole, and of others as many digits as tell something."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print or write them."""
    for name, results in PAGES.items():
        page, made = ROOT / name, tables(results)
        if "--write" not in sys.argv:
            print(made)
            continue
        before, rest = page.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
        page.write_text(f"{before}{BEGIN}\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
