"""What the shipped rules and panels ask for, and whether a real Prometheus has it."""

import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml

from load.prometheus import RULES, Panel, Prometheus

needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs prometheus: apt-get install prometheus"
)

_NAMES = re.compile(r"(?:up|instance:talkwire|talkwire|grpc|vllm:)[a-z0-9_:]*(?=[{\[) ]|$)")


def rules(kind: str) -> dict[str, Any]:
    """Return the rules of a kind, "record" or "alert", by name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def asked_by_alerts() -> set[str]:
    """Return the metrics that alerts ask for."""
    queries = [re.sub(r'"[^"]*"|by \([^)]*\)', "", one["expr"]) for one in rules("alert").values()]
    return {name for query in queries for name in _NAMES.findall(query)}


def missing(one: Prometheus, asked: Sequence[Panel], quiet: Sequence[str]) -> Iterator[str]:
    """Say which queries gave nothing, and which panels nothing but zeros who are not `quiet`."""
    for panel in asked:
        values = []
        for query in panel.queries:
            found = one.series(query.text)
            values += [value for series in found for value in series.values]
            if not found:
                yield f"{panel.title}: {query.text} gives nothing"
        if panel.title not in quiet and not any(values):
            yield f"{panel.title} is always 0"
