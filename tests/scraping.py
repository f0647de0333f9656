"""What a metrics page says, read as Prometheus reads it."""

import asyncio
import urllib.request
from collections.abc import Callable

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

ACCEPT = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"  # as Prometheus says


class Page:
    """One scrape of a page."""

    def __init__(self, url: str) -> None:
        asked = urllib.request.Request(url, headers={"Accept": ACCEPT})  # noqa: S310  # ours
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            self.text: str = answer.read().decode()
        self.families: list[Metric] = [*text_string_to_metric_families(self.text)]

    def value(self, name: str, **labels: str) -> float:
        """Add up the samples of a name that have these labels; 0 if there are none."""
        return sum(
            sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values of a label."""
        return {
            sample.labels[label]
            for family in self.families
            for sample in family.samples
            if sample.name == name
        }


class Meter:
    """What a server counts from here on: all servers of a process count together."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._before = Page(url)

    def rise(self, name: str, **labels: str) -> float:
        """Tell by how much a value has risen."""
        return Page(self.url).value(name, **labels) - self._before.value(name, **labels)

    async def rises(self, name: str, by: float, **labels: str) -> None:
        """Wait until it has risen by so much; fail if it is more."""
        await until(lambda: self.rise(name, **labels) >= by)
        assert self.rise(name, **labels) == by, f"{name} {labels}"


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so, asked in a thread, or fail."""
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(is_so):  # noqa: ASYNC110  # of another process, too
            await asyncio.sleep(0.05)
