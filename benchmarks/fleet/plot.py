"""A picture of how large fleets must be, and of what their callers get. Simulates nothing."""

from pathlib import Path
from typing import Any

SHOWN = ("engines", "frontends", "proxies", "client connections")


def plot(content: dict[str, Any], file: Path) -> None:
    """Draw a result: sizes by the number of streams, and rates by the part of all answers."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    picture, (sizes, rates) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    ways = content["ways"]
    streams = [int(way.replace(",", "")) for way in ways]
    for name in SHOWN:
        sizes.plot(streams, [row[name] for row in ways.values()], marker="o", label=name)
    sizes.set_xscale("log")
    sizes.set_yscale("log")
    sizes.set_xlabel("streams at once")
    for way, percentiles in content["rates"].items():
        rates.plot(percentiles, range(1, 100), label=f"{way} streams")
    aim = content["settings"]["rate"]
    rates.axvline(aim, color="black", linestyle=":", label=f"wanted by 99 %: {aim:g}")
    rates.set_xlabel("tokens a second of an answer")
    rates.set_ylabel("% of answers that have no more")
    for panel in (sizes, rates):
        panel.grid(alpha=0.3)
        panel.legend()
    picture.suptitle(f"capacity: {content['settings']['way']}")
    picture.savefig(file, dpi=110)
