"""The README's programs, run as they stand but for the port."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from processes import serving

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=["blocking", "asyncio", "multiplexed"])
def test_the_programs_run(program: str) -> None:
    """Each program of the README answers, and fails nowhere."""
    with serving() as address:
        ran = subprocess.run(
            [sys.executable, "-W", "error", "-c", program.replace("localhost:50051", address)],
            capture_output=True,
            text=True,
            timeout=60,
        )

    assert (ran.stderr, ran.returncode) == ("", 0)
    assert "What is" in ran.stdout


def test_the_first_program_has_seven_lines() -> None:
    """Seven lines of Python, the blank one included, are all that it takes."""
    assert len(PROGRAMS[0].splitlines()) == 7
