"""docs/operations.md: its flags and metrics are those there are."""

import re
from dataclasses import fields

from processes import ROOT, launched
from scraping import Page
from talkwire import Client
from talkwire_server.settings.flag import flag_of
from talkwire_server.settings.metrics import MetricsSettings
from terminal import free_target

PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| ([a-z_, ]*)\|", re.MULTILINE)


def test_the_table_has_all_metrics() -> None:
    """Name, type and labels are those of a scrape after a chat."""
    metrics = free_target()
    with launched(f"--metrics-port={metrics.partition(':')[2]}") as server:
        with Client(server.target) as client:
            client.chat("a b")
        found = {
            family.name: (family.type, {*family.samples[0].labels} - {"le"})
            for family in Page(f"http://{metrics}/metrics").families
            if family.name.startswith(("grpc_", "talkwire_"))
        }
        server.process.terminate()
        server.ends()

    told = {
        name: (kind, {label.strip() for label in labels.split(",")} - {""})
        for name, kind, labels in ROW.findall(PAGE)
    }
    assert told == found


def test_every_flag_is_on_the_page() -> None:
    """What can be set is told."""
    flags = {flag_of(one) for one in fields(MetricsSettings)}

    assert {flag for flag in flags if f"`{flag}`" not in PAGE} == set()
