"""What is shipped beside the code, checked by the tools of its formats; no container is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment, or any other program, in the project's folder."""
    tools = Path(sys.executable).parent
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def passes(*command: str) -> None:
    """Assert that a checker is content, showing what it says when it is not."""
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.compose-spec", "docker-compose.yml"),
        ("vendor.github-workflows", ".github/workflows/check.yml"),
    ],
)
def test_the_file_fits_its_specification(schema: str, file: str) -> None:
    passes("check-jsonschema", "--builtin-schema", schema, file)


def test_the_dockerfile_is_free_of_lint() -> None:
    passes("hadolint", "Dockerfile")


@pytest.mark.parametrize(
    "script", ["scripts/setup.sh", "scripts/proto.sh", "scripts/start_time.sh", ".ci/run"]
)
def test_the_script_parses(script: str) -> None:
    passes("bash", "-n", script)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_its_targets() -> None:
    listed = [line.split()[:2] for line in run("make", "--no-print-directory").stdout.splitlines()]
    targets = "help chat serve test check fuzz faults soak proto setup clean"
    assert listed == [["make", target] for target in targets.split()]


def test_set_up_refuses_an_unknown_argument() -> None:
    done = run("scripts/setup.sh", "tpu")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: unknown argument tpu; usage:")


def test_set_up_names_the_package_when_python_is_too_old(tmp_path: Path) -> None:
    python = tmp_path / "python3.10"
    python.write_text("#!/bin/sh\necho 3.10\n")
    python.chmod(0o755)
    done = run("scripts/setup.sh", PYTHON=str(python))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"setup: vLLM needs Python 3.11 to 3.14, found {python} 3.10: "
        "sudo apt install python3.11-venv (or set PYTHON)\n"
    )
