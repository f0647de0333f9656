"""The shipped rules and dashboard over a real Prometheus: every query works on what we count."""

import asyncio
import json
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from load.prometheus import CONFIG, DASHBOARD, RULES, Prometheus, panels, prometheus
from processes import ROOT, launched
from prometheus import asked_by_alerts, missing, needs_prometheus, rules
from talkwire import AsyncClient, Error
from terminal import free_target

pytestmark = needs_prometheus

OPERATIONS = ROOT / "docs/operations.md"
ALERTS = ROOT / "deploy/prometheus/alerts_test.yml"


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_and_configurations_are_well_formed(tmp_path: Path) -> None:
    """That of Kubernetes but for its discovery, which Debian's Prometheus is built without."""
    discovery = "kubernetes_sd_configs: [{ role: pod }]"
    given = (CONFIG.parent / "kubernetes.yml").read_text()
    (other := tmp_path / "other.yml").write_text(given.replace(discovery, "static_configs: []"))

    assert discovery in given
    promtool("check", "rules", RULES)
    promtool("check", "config", CONFIG)
    promtool("check", "config", "--lint=none", other)


def test_each_alert_comes_and_goes() -> None:
    """Promtool has each of them up once, and down before and after."""
    promtool("test", "rules", ALERTS)
    tested: dict[str, list[bool]] = {}
    for test in yaml.safe_load(ALERTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tested.setdefault(case["alertname"], []).append(bool(case["exp_alerts"]))

    assert tested == {name: [False, True, False] for name in rules("alert")}


def test_each_alert_has_its_runbook() -> None:
    """It names a section of docs/operations.md, and each section there an alert."""
    page = OPERATIONS.read_text(encoding="utf-8")
    sections = {line.removeprefix("### ") for line in page.splitlines() if "### Talk" in line}

    assert sections == rules("alert").keys()
    for name, rule in rules("alert").items():
        runbook = rule["annotations"]["runbook"]
        assert runbook == f"{OPERATIONS.relative_to(ROOT)}#{name.lower()}"


def looks(one: Prometheus) -> int:
    """Tell how often it has looked at the server."""
    return sum(len(series.values) for series in one.series("up"))


async def chat(client: AsyncClient, query: str = "some words", **options: Any) -> None:
    with suppress(Error):
        await client.chat(query, **options)


async def load(target: str) -> None:
    """Have all happen that a chat can come to."""
    long = "word " * 100
    async with (
        AsyncClient(target, retry=None) as client,
        AsyncClient(target, retry=None, multiplex=True) as shared,
    ):
        for one in (client, shared):
            async with one.stream("some words") as stream:
                await stream.wait()
            async with one.stream(long) as left:
                await anext(aiter(left))
            async with one.stream(long, time_limit=0.05) as limited:
                await limited.wait()
            await chat(one, long, timeout=0.1)
            await chat(one, "a", model="none")
        await asyncio.gather(*(chat(client, long) for _ in range(12)))


@pytest.mark.timeout(180)
async def test_all_queries_give_what_the_load_made(tmp_path: Path) -> None:
    """Each panel and rule has data; metrics that an alert asks for are there. vLLM's are elsewhere.

    No rule fails, and no alert fires at a server that does well.
    """
    metrics = free_target()
    flags = ["--frontends=2", "--echo-delay=0.005", "--metrics-callers=127.0.0.1"]
    flags += ["--max-running-requests=4", "--max-queued-requests=4"]
    with launched(*flags, f"--metrics-port={metrics.partition(':')[2]}") as server:
        target = await asyncio.to_thread(lambda: server.target)
        async with prometheus(tmp_path, f"http://{metrics}/metrics") as one:
            while await asyncio.to_thread(looks, one) < 12:
                await load(target)
            await asyncio.to_thread(all_have_data, one)
        server.process.terminate()
        await asyncio.to_thread(server.ends)


def all_have_data(one: Prometheus) -> None:
    told = [rule for group in one.ask("rules")["groups"] for rule in group["rules"]]
    assert len(told) == len(rules("record")) + len(rules("alert"))
    assert {rule["name"]: rule["lastError"] for rule in told if rule["health"] != "ok"} == {}
    assert [rule["name"] for rule in told if rule.get("state") == "firing"] == []
    assert [name for name in rules("record") if not one.series(name)] == []

    own = [panel for panel in panels() if not panel.is_vllms]
    assert [*missing(one, own, quiet=["Failed"])] == []
    ours = {name for name in asked_by_alerts() if not name.startswith("vllm:")}
    assert len(ours) > 8
    assert [name for name in ours if not one.series(name)] == []


def test_panels_ask_for_the_chosen_servers_and_do_not_overlap() -> None:
    """Each query can be narrowed, and each panel has a place of its own."""
    found = json.loads(DASHBOARD.read_text())["panels"]
    cells = [
        (x, y)
        for panel in found
        for where in [panel["gridPos"]]
        for x in range(where["x"], where["x"] + where["w"])
        for y in range(where["y"], where["y"] + where["h"])
    ]

    assert len(cells) == len({*cells})
    assert max(x for x, _ in cells) < 24
    asked = [one["expr"] for panel in found for one in panel.get("targets", [])]
    assert [expr for expr in asked if 'instance=~"$instance"' not in expr] == []
