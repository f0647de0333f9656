"""Metrics of replicas: a real Prometheus finds them all, as docs/ray.md has it look."""

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from load.prometheus import prometheus
from processes import ROOT
from prometheus import needs_prometheus
from ray_cluster import RayCluster
from scraping import until
from talkwire import AsyncClient
from terminal import talkwire

pytestmark = [needs_prometheus, pytest.mark.timeout(300)]

PAGE = (ROOT / "docs/ray.md").read_text(encoding="utf-8")
(CONFIG,) = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", PAGE, re.DOTALL)
CHATS = 20


async def test_all_replicas_are_found_and_counted(cluster: RayCluster, tmp_path: Path) -> None:
    """What two replicas count is together what clients asked for; `talkwire top` shows both."""
    placement = {"num_replicas": 2, "max_replicas_per_node": 1, "resources": {}}
    cluster.deploy("measured", metrics_port=0, ray=placement)
    here = CONFIG.replace("HEAD:8000/talkwire", f"127.0.0.1:{cluster.http_port}/measured")
    (scraped,) = yaml.safe_load(here)["scrape_configs"]

    async with (
        prometheus(tmp_path, **scraped) as one,
        AsyncClient(cluster.target, metadata={"application": "measured"}) as client,
    ):

        def found(query: str) -> list[float]:
            return [float(series["value"][1]) for series in one.ask("query", query=query)["result"]]

        await until(lambda: found("talkwire_serving") == [1, 1])
        await asyncio.gather(*(client.chat("hi") for _ in range(CHATS)))
        await until(lambda: found('sum(talkwire_chats_total{code="OK"})') == [CHATS])
        await until(lambda: min(found("talkwire_frontend_cpu_seconds_total"), default=0) > 0)
        counted = found("talkwire_chats_total > 0")
        addresses = {target["labels"]["instance"] for target in one.ask("targets")["activeTargets"]}
    shown = talkwire("top", "--interval=0.3", *addresses)
    await asyncio.to_thread(cluster.tell, "delete", "measured")

    assert len(counted) == len(addresses) == 2
    assert shown.status == 0
    assert all(address in shown.out for address in addresses)
