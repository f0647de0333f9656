"""What servers' metrics pages say, and what became of that since. Shows nothing."""

import urllib.request
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import pairwise
from math import inf, isnan, nan
from time import monotonic
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT = 5.0  # seconds

Labels: TypeAlias = frozenset[tuple[str, str]]
Samples: TypeAlias = Mapping[str, Mapping[Labels, float]]
"""By name, then by labels."""


class Reading:
    """What the pages said at one time.

    Args:
        targets: The servers, each host:port of its metrics, or a URL.

    Attributes:
        at: When, in `time.monotonic` seconds.
        samples: Of all pages; the label `target` says whose.
        failures: Why there is no page, by target.

    """

    def __init__(self, targets: Sequence[str]) -> None:
        self.failures: dict[str, str] = {}
        self.samples: dict[str, dict[Labels, float]] = {}
        with ThreadPoolExecutor(len(targets)) as threads:
            pages = [*threads.map(_page, targets)]
        self.at = monotonic()
        for target, page in zip(targets, pages, strict=True):
            if isinstance(page, Exception):
                self.failures[target] = str(getattr(page, "reason", page))
            else:
                self._add(target, page)

    def _add(self, target: str, page: str) -> None:
        try:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    labels = frozenset({**sample.labels, "target": target}.items())
                    self.samples.setdefault(sample.name, {})[labels] = sample.value
        except ValueError:
            self.failures[target] = "no page of metrics"

    def values(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Return the samples of a name that have these labels."""
        for known, value in self.samples.get(name, {}).items():
            if labels.items() <= known:
                yield known, value

    def total(self, name: str, **labels: str) -> float:
        """Add them up; nan if there are none."""
        found = [value for _, value in self.values(name, **labels)]
        return sum(found) if found else nan


class Window:
    """The latest readings.

    Args:
        seconds: How long one counts.

    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._readings: deque[Reading] = deque()

    def add(self, reading: Reading) -> None:
        """Add the next."""
        self._readings.append(reading)
        while reading.at - self._readings[0].at > self._seconds and len(self._readings) > 2:
            self._readings.popleft()

    @property
    def now(self) -> Reading:
        """The latest."""
        return self._readings[-1]

    def rises(self, name: str, **labels: str) -> Iterator[tuple[Labels, float]]:
        """Tell how much each counter of a name rose; one that begins anew rises from 0.

        A server's that had no page before are left out.
        """
        first = self._readings[0].samples.values()
        there = {target for known in first for target in map(_target, known)}
        for key, _ in self.now.values(name, **labels):
            if _target(key) in there:
                yield key, self._rise(name, key)

    def _rise(self, name: str, key: Labels) -> float:
        pages = [one.samples.get(name, {}) for one in self._readings]
        values = [page[key] for page in pages if key in page]
        if len(values) < len(pages) and key not in pages[0]:
            values.insert(0, 0.0)  # nobody counted yet
        return sum(new - old if new >= old else new for old, new in pairwise(values))

    def rate(self, name: str, **labels: str) -> float:
        """Tell how much the counters of a name rose a second, together; nan if that is unknown."""
        found = [rise for _, rise in self.rises(name, **labels)]
        seconds = self.now.at - self._readings[0].at
        return sum(found) / seconds if found and seconds else nan

    def quantile(self, share: float, name: str, **labels: str) -> float:
        """Estimate a quantile of a histogram, as Prometheus does; nan if nothing was observed."""
        buckets: dict[float, float] = {}
        for key, rise in self.rises(f"{name}_bucket", **labels):
            bound = float(dict(key)["le"])
            buckets[bound] = buckets.get(bound, 0.0) + rise
        wanted = share * buckets.get(inf, 0.0)
        low, below = 0.0, 0.0
        for bound, count in sorted(buckets.items()):
            if count >= wanted > 0:
                inside = (wanted - below) / (count - below)
                return low if bound == inf else low + (bound - low) * inside
            low, below = bound, count
        return nan

    def tokens(self, **labels: str) -> float:
        """Tell how many tokens are generated a second: vLLM says so as they are, we at the end."""
        live = self.rate("vllm:generation_tokens_total", **labels)
        if isnan(live):
            return self.rate("talkwire_tokens_total", kind="completion", **labels)
        return live


def _page(target: str) -> str | Exception:
    url = target if "://" in target else f"http://{target}/metrics"
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:  # noqa: S310  # who asks chose it
            text: str = answer.read().decode()
            return text
    except (OSError, ValueError, HTTPException) as error:
        return error


def _target(labels: Labels) -> str:
    return dict(labels)["target"]
