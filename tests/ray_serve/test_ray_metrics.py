"""What replicas tell operators: metrics, found as docs/ray.md has Prometheus look, and spans."""

import asyncio
import re
from pathlib import Path

import pytest
import yaml

from load.prometheus import prometheus
from otlp import collecting
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
    discovery = f"127.0.0.1:{cluster.http_port}/measured"
    (scraped,) = yaml.safe_load(CONFIG.replace("HEAD:8000/talkwire", discovery))["scrape_configs"]
    flags = {"metrics_port": 0, "metrics_host": "0.0.0.0", "ray": placement}

    with cluster.deployed("measured", **flags) as there:
        async with (
            prometheus(tmp_path, **scraped) as one,
            AsyncClient(cluster.target, metadata=there) as client,
        ):

            def found(query: str) -> list[float]:
                series = one.ask("query", query=query)["result"]
                return [float(each["value"][1]) for each in series]

            await until(lambda: found("talkwire_serving") == [1, 1])
            await asyncio.gather(*(client.chat("hi") for _ in range(CHATS)))
            await until(lambda: found('sum(talkwire_chats_total{code="OK"})') == [CHATS])
            await until(lambda: min(found("talkwire_frontend_cpu_seconds_total"), default=0) > 0)
            assert found("grpc_server_started_total") == []
            assert found("talkwire_multiplex_events_total") == [0, 0]
            counted = found("talkwire_chats_total > 0")
            scraping = one.ask("targets")["activeTargets"]
        targets = [target["labels"]["instance"] for target in scraping]
        shown = talkwire("top", "--interval=0.3", *targets)

    assert len(counted) == len(targets) == 2
    assert {target.partition(":")[0] for target in targets} == {cluster.address.partition(":")[0]}
    assert shown.status == 0
    assert all(target in shown.out for target in targets)


async def test_a_replica_that_leaves_sends_its_last_spans(cluster: RayCluster) -> None:
    """Serve kills it at once then, with whatever OpenTelemetry was to send some time."""
    with collecting() as collector:
        env = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": "600000"}
        with cluster.deployed("traced", ray={"env": env}) as there:
            async with AsyncClient(cluster.target, metadata=there) as client:
                await asyncio.gather(*(client.chat("hi") for _ in range(CHATS)))
        spans = await asyncio.to_thread(collector.spans, CHATS)

    assert [span.name for span in spans] == ["chat echo"] * CHATS
