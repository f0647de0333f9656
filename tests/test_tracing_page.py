"""docs/tracing.md: its program and its command, run as they stand but for the ports."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from otlp import collecting
from processes import ROOT, launched
from talkwire import Client

PAGE = (ROOT / "docs/tracing.md").read_text(encoding="utf-8")
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMAND, *_ = re.findall(r"^\$ (.*serve.*)$", PAGE, re.MULTILINE)


def test_the_program_shows_its_span() -> None:
    """And the server's is part of it."""
    with collecting() as collector, launched(**collector.environment) as server:
        done = subprocess.run(
            [
                sys.executable,
                "-W",
                "error",
                "-c",
                PROGRAM.replace("localhost:50051", server.target),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        (span,) = collector.spans(1)

    assert (done.stderr, done.returncode) == ("", 0)
    assert "What is" in done.stdout
    assert f"0x{span.parent_id}" in done.stdout


def test_the_command_sends_spans() -> None:
    """The variable of the page is all that it takes."""
    tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with collecting() as collector:
        command = COMMAND.replace("http://localhost:4317", collector.target)
        with subprocess.Popen(
            ["env", *shlex.split(command), "--port=0"],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PATH": tools},
        ) as process:
            assert process.stderr
            serving = next(line for line in process.stderr if " serving " in line)
            with Client(serving.rpartition(" on ")[2].split()[0]) as client:
                client.chat("a")
            process.terminate()
            process.stderr.read()
        (span,) = collector.spans(1)

    assert span.name == "chat echo"
