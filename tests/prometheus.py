"""A real Prometheus over the shipped rules, and the queries of the shipped dashboard."""

import asyncio
import json
import re
import shutil
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from math import isfinite
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

import pytest
import yaml

from processes import ROOT
from terminal import free_target

RULES = ROOT / "deploy/prometheus/rules.yml"
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/talkwire.json"

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)

_NAMES = re.compile(r"(?:up|instance:talkwire|talkwire|grpc|vllm:)[a-z0-9_:]*(?=[{\[) ]|$)")


class Panel(NamedTuple):
    """A panel of the dashboard, with its queries as Grafana would send them."""

    title: str
    queries: Sequence[str]


def panels() -> list[Panel]:
    """Return all that ask something. Scrapes are a second apart: a rate is one of ten."""
    found = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    variables = {"$instance": ".*", "$__rate_interval": "10s"}
    return [
        Panel(panel["title"], [_filled(one["expr"], variables) for one in panel["targets"]])
        for panel in found
        if panel["type"] != "row"
    ]


def rules(kind: str) -> dict[str, Any]:
    """Return the rules of a kind, "record" or "alert", by name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def names(query: str) -> set[str]:
    """Return the metrics that a query asks for."""
    return set(_NAMES.findall(re.sub(r'"[^"]*"|by \([^)]*\)', "", query)))


class Prometheus:
    """One that runs."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.began = time()

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer of its API; fail where it refuses."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def values(self, query: str) -> list[float]:
        """Return all numbers that a query gives for the time since it began."""
        times = {"start": self.began, "end": time(), "step": 1}
        series = self.ask("query_range", query=query, **times)["result"]
        found = [float(value) for one in series for _, value in one["values"]]
        return [value for value in found if isfinite(value)]

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        url = f"http://{self._address}/-/ready"
        with suppress(OSError), urllib.request.urlopen(url, timeout=30):
            return True
        return False


@asynccontextmanager
async def prometheus(folder: Path, *urls: str) -> AsyncIterator[Prometheus]:
    """Run one for the length of the block, as it is shipped, but on these pages and faster."""
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (scraped,) = config["scrape_configs"]
    del scraped["dns_sd_configs"]
    targets = [urllib.parse.urlsplit(url).netloc for url in urls]
    scraped["static_configs"] = [{"targets": targets}]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = free_target()
    flags = [f"--config.file={file}", f"--storage.tsdb.path={folder}/data"]
    flags += [f"--web.listen-address={address}", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec("prometheus", *flags, stderr=log)
    try:
        one, begun = Prometheus(address), monotonic()
        while not await asyncio.to_thread(one.is_ready):
            assert process.returncode is None, (folder / "log").read_text()
            assert monotonic() < begun + 60, (folder / "log").read_text()
            await asyncio.sleep(0.1)
        yield one
    finally:
        process.terminate()
        await process.wait()


def fills(one: Prometheus, asked: Sequence[Panel], quiet: Sequence[str]) -> Iterator[str]:
    """Say which queries gave nothing, and which panels nothing but zeros who are not `quiet`."""
    for panel in asked:
        values = {query: one.values(query) for query in panel.queries}
        yield from (f"{panel.title}: {query}" for query, found in values.items() if not found)
        if panel.title not in quiet and not any(map(any, values.values())):
            yield f"{panel.title}: {values}"


def _filled(query: str, variables: dict[str, str]) -> str:
    for name, value in variables.items():
        query = query.replace(name, value)
    assert "$" not in query
    return query
