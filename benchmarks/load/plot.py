"""A picture of a result: four figures over the number of streams, a line a server."""

from pathlib import Path

from load.figures import METRICS
from load.report import Result

SHOWN = ("rate", "ttft_p99", "server_us", "client_us")


def plot(result: Result, file: Path) -> None:
    """Draw it. Lines are medians, bars the least and the most."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    picture, panels = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    for name, panel in zip(SHOWN, panels.flat, strict=True):
        for way in result.ways:
            levels = [level for level in result.levels if name in result.median(way, level)]
            middles = [result.median(way, level)[name] for level in levels]
            ranges = [
                [
                    abs(bound(one[name] for one in result.repeats(way, level)) - middle)
                    for level, middle in zip(levels, middles, strict=True)
                ]
                for bound in (min, max)
            ]
            panel.errorbar(levels, middles, yerr=ranges, marker="o", capsize=3, label=way)
        panel.set_xscale("log", base=2)
        panel.set_xticks(result.levels, [str(level) for level in result.levels])
        panel.set_ylim(bottom=0)
        panel.set_title(METRICS[name].title)
        panel.set_xlabel("streams")
        panel.grid(alpha=0.3)
    panels[0][0].legend()
    machine = result.content["machine"]
    picture.suptitle(f"{result.content['benchmark']}: {machine.get('gpu') or machine['cpu']}")
    picture.savefig(file, dpi=110)
