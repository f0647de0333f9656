"""docs/operations.md: its flags, metrics and commands are those there are."""

import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from processes import ROOT, launched
from scraping import Page
from talkwire import Client
from talkwire_server.settings.flag import flag_of
from talkwire_server.settings.metrics import MetricsSettings
from terminal import free_target

PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `([a-z_]+)` \| (\w+) \| ([a-z_, ]*)\|", re.MULTILINE)
MARK = "=== next"


def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    """Each command prints what stands below it."""
    (text,) = re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL)
    port, metrics = (free_target().rpartition(":")[2] for _ in range(2))
    steps = [step.partition("\n") for step in re.split(r"^\$ ", text, flags=re.MULTILINE) if step]
    commands = "".join(f"echo '{MARK}'\n{command}\n" for command, _, _ in steps)
    script = f"exec 2>&1\ntrap 'kill $(jobs -p)' EXIT\n{commands}".replace("9090", metrics)
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"TALKWIRE_TARGET": f"localhost:{port}", "TALKWIRE_SERVE_PORT": port}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": tools} | given,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    printed = done.stdout.split(f"{MARK}\n")[1:]

    assert printed == [said for _, _, said in steps]


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
