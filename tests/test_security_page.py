"""docs/security.md, followed to the letter but for the ports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from processes import ROOT
from talkwire_server import options
from talkwire_server.security.tokens import Tokens
from talkwire_server.settings.flag import flag_of
from talkwire_server.settings.security import SecuritySettings
from terminal import free_target

PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
CONSOLE = "".join(re.findall(r"```console\n(.*?)```", PAGE, re.DOTALL))
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
MARK = "=== next"


def commands(text: str) -> Iterator[tuple[str, str]]:
    """Yield each command with what it shall print."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, printed = part.partition("\n")
        yield command, printed


@pytest.fixture
def ports() -> dict[str, str]:
    """Free ports for those of the page."""
    return {port: free_target().rpartition(":")[2] for port in ("50051", "50052")}


def test_the_commands_print_what_the_page_says(tmp_path: Path, ports: dict[str, str]) -> None:
    """Each command prints what stands below it; `…` stands for anything."""
    text = re.sub("50051|50052", lambda port: ports[port[0]], CONSOLE)
    steps = [*commands(text)]
    script = "".join(f"echo '{MARK}'\n{command}\n" for command, _ in steps)
    script = f"exec 2>&1\ntrap 'kill $(jobs -p)' EXIT\n{script}"
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {"TALKWIRE_TARGET": f"localhost:{ports['50051']}"}
    given["TALKWIRE_SERVE_PORT"] = ports["50051"]
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": tools} | given,
        capture_output=True,
        text=True,
        timeout=100,
    )
    printed = done.stdout.split(f"{MARK}\n")[1:]

    assert len(printed) == len(steps)
    for (command, said), got in zip(steps, printed, strict=True):
        if command.startswith("openssl"):
            assert "rror" not in got  # it draws dots
        else:
            pattern = re.escape(said).replace("…", ".*")
            assert re.fullmatch(pattern, got), f"{command}\n{got}"


def test_the_token_file_is_one(tmp_path: Path) -> None:
    """The example can be read."""
    file = tmp_path / "tokens.yaml"
    file.write_text(YAML[0])

    assert Tokens(str(file))


def test_the_config_file_is_one(tmp_path: Path) -> None:
    """The flags of the example are the server's."""
    file = tmp_path / "config.yaml"
    file.write_text(YAML[1])
    settings = options.parse(["--config", str(file)], {})

    assert (settings.jwt_audience, settings.engine_args) == ("talkwire", ())
    assert len(YAML) == 2


def test_every_flag_is_on_the_page() -> None:
    """What can be set is told."""
    flags = {flag_of(one).removeprefix("--") for one in fields(SecuritySettings)}

    assert {flag for flag in flags if flag not in PAGE} == set()
