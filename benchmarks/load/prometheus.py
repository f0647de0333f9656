"""A real Prometheus over metrics pages, with our rules, asked what our dashboard asks."""

import asyncio
import json
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from math import isfinite
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple

import yaml

from load.servers import free_port

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/rules.yml"
CONFIG = ROOT / "deploy/prometheus/prometheus.yml"
DASHBOARD = ROOT / "deploy/grafana/dashboards/talkwire.json"

_VARIABLES = {"$instance": ".*", "$__rate_interval": "10s"}  # scrapes are a second apart


class Query(NamedTuple):
    """A query as Grafana sends it, and how it calls a series, with `{{label}}`."""

    text: str
    legend: str


class Panel(NamedTuple):
    """A panel of the dashboard."""

    title: str
    kind: str
    unit: str
    queries: tuple[Query, ...]

    @property
    def is_vllms(self) -> bool:
        """Whether it shows what vLLM counts."""
        return any("vllm:" in query.text for query in self.queries)


class Series(NamedTuple):
    """What a query gave, over seconds since it was begun."""

    labels: Mapping[str, str]
    times: Sequence[float]
    values: Sequence[float]


def panels() -> list[Panel]:
    """Return all panels that ask something."""
    return [
        Panel(
            panel["title"],
            panel["type"],
            panel["fieldConfig"]["defaults"]["unit"],
            tuple(
                Query(_filled(one["expr"]), one.get("legendFormat", "")) for one in panel["targets"]
            ),
        )
        for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
        if panel["type"] != "row"
    ]


class Prometheus:
    """One that runs."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._began = time()

    def ask(self, path: str, **parameters: Any) -> Any:
        """Return the data of an answer of its API; ValueError where it refuses."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters}: {error.read().decode()}") from None

    def series(self, query: str) -> list[Series]:
        """Return what a query gives for the time since this was begun; only what is a number."""
        asked = {"query": query, "start": self._began, "end": time(), "step": 1}
        found = []
        for one in self.ask("query_range", **asked)["result"]:
            points = [(at - self._began, float(value)) for at, value in one["values"]]
            points = [point for point in points if isfinite(point[1])]
            if points:
                found.append(Series(one["metric"], *zip(*points, strict=True)))
        return found

    def is_ready(self) -> bool:
        """Tell whether it answers."""
        url = f"http://{self._address}/-/ready"
        with suppress(OSError), urllib.request.urlopen(url, timeout=30):
            return True
        return False


@asynccontextmanager
async def prometheus(
    folder: Path, url: str | None = None, **discovery: Any
) -> AsyncIterator[Prometheus]:
    """Run one for the length of the block, configured as is shipped, but faster.

    It scrapes a page, or what is discovered as `http_sd_configs` and the like say.
    """
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(RULES)]
    (scraped,) = config["scrape_configs"]
    del scraped["dns_sd_configs"]
    if url:
        discovery = {"static_configs": [{"targets": [urllib.parse.urlsplit(url).netloc]}]}
    scraped |= discovery
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    flags = [f"--config.file={file}", f"--storage.tsdb.path={folder}/data"]
    flags += [f"--web.listen-address={address}", "--log.level=warn"]
    with (folder / "log").open("w") as log:
        process = await asyncio.create_subprocess_exec("prometheus", *flags, stderr=log)
    try:
        one, begun = Prometheus(address), monotonic()
        while not await asyncio.to_thread(one.is_ready):
            if process.returncode is not None or monotonic() > begun + 60:
                raise RuntimeError((folder / "log").read_text())
            await asyncio.sleep(0.1)
        yield one
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _filled(query: str) -> str:
    for name, value in _VARIABLES.items():
        query = query.replace(name, value)
    return query
