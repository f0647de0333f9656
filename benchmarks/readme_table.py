"""The README's tables of speed, made from the results in benchmarks/results.

python benchmarks/readme_table.py [--write]      (default: print them)
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from load.figures import METRICS
from load.report import RAW, Result

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- made by benchmarks/readme_table.py -->", "<!-- end -->"

SHOWN = ("ttft_p50", "ttft_p99", "gap_p99", "server_us", "client_us", "bytes", "messages")
WANTED = (64, 256, 512)
MACHINE = ("gpu", "cpu", "cores", "python", "vllm", "grpcio", "commit", "date")


def tables() -> str:
    """Make the text between the marks."""
    files = sorted(RESULTS.glob("*.json"))
    return "\n\n".join("\n".join(_told(Result.read(file))) for file in files)


def _told(result: Result) -> Iterator[str]:
    machine = result.content["machine"]
    known = [f"{name} {machine[name]}" for name in MACHINE if name in machine]
    settings = [f"{name} {value}" for name, value in result.content["settings"].items()]
    yield f"`benchmarks/{result.content['benchmark']}.py` on {', '.join(known)}:"
    yield ""
    yield from _cancels(result) if "ways" in result.content else _runs(result)
    yield ""
    yield f"({'; '.join(one for one in settings if not one.startswith('engine_flags'))})"


def _runs(result: Result) -> Iterator[str]:
    beside = ("of raw", "us above raw") if RAW in result.ways else ()
    titles = ("streams", "", "tok/s", *beside, *(METRICS[name].title for name in SHOWN))
    yield _row(*titles)
    yield _row(*["---"] * len(titles))
    for level in [level for level in WANTED if level in result.levels] or result.levels[-3:]:
        for way in result.ways:
            if median := result.median(way, level):
                cells = [
                    f"{median[name]:,.{METRICS[name].digits}f}" if name in median else ""
                    for name in SHOWN
                ]
                ratio = result.beside_raw(way, level) if beside else ()
                yield _row(str(level), way, f"{median['rate']:,.0f}", *ratio, *cells)


def _cancels(result: Result) -> Iterator[str]:
    ways = result.content["ways"]
    names = list(next(iter(ways.values())))
    yield _row("ms", *names)
    yield _row(*["---"] * (1 + len(names)))
    for way, figures in ways.items():
        yield _row(way, *(f"{figures[name]:.1f}" for name in names))


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print or write them."""
    if "--write" not in sys.argv:
        print(tables())
        return
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
