"""docs/balancing.md, run as it stands but for the ports."""

import re
import subprocess
import sys

import pytest

from processes import ROOT, serving

PAGE = (ROOT / "docs/balancing.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
ANSWERS = ["My name is Ada.\nWhat is my name?\n", "And now?\nWho am I?\n"]


@pytest.mark.parametrize(("program", "said"), [*zip(PROGRAMS, ANSWERS, strict=True)])
def test_the_programs_run(program: str, said: str) -> None:
    """Each answers, with two servers, and fails nowhere."""
    with serving() as one, serving() as two:
        here = program.replace("localhost:50051", one).replace("localhost:50052", two)
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", here], capture_output=True, text=True, timeout=60
        )

    assert (ran.stderr, ran.returncode) == ("", 0)
    assert ran.stdout == said
