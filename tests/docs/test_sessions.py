"""README.md and docs/, each page followed to the letter, but for the ports."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from shutil import copytree, which

import pytest

from pages import PAGES, Step, blocks, steps
from processes import ROOT, serving
from terminal import free_target

pytestmark = pytest.mark.timeout(300)  # a page may have dozens of programs

NEXT = "=== next"
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
PORTS = ("50051", "50052", "50053", "50061", "50062", "9090", "9901")
TOOLS = {"envoy", "kubectl"}  # for which not every machine has a wheel
HOLDS = re.compile(r"talkwire serve (?!.*(--help|&$))", re.DOTALL)  # its terminal
DRAWS = "openssl"  # dots, each time others

README = PAGES[0]
SESSIONS = {page: found for page in PAGES if (found := [*steps(page)])}


def script(steps: list[Step]) -> Iterator[str]:
    """Write a page down for bash, with a mark before each step and its status behind it.

    A server that would hold a terminal of its own is started beside, in place of the one before.
    """
    yield "exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null; wait' EXIT\n"
    for step in steps:
        yield f"echo '{NEXT}'\n"
        if step.block.language == "python":
            yield f"python -W error - <<'PROGRAM'\n{step.code}PROGRAM\n"
        elif HOLDS.match(step.code):
            port = re.search(r"--port (\d+)", step.code)
            target = f"localhost:{port[1]}" if port else ""
            yield 'if [ -n "$beside" ]; then kill $beside; wait $beside; fi\n'
            yield f"{step.code} 2>> serving.log &\nbeside=$!\n"
            yield f"talkwire ready --timeout 60 {target}\n"
        else:
            yield f"{step.code}\n"
        yield 'echo "status $?"\n'


def fault(step: Step, printed: str) -> str:
    """Say what is wrong with what a step printed, if anything is.

    A program may print more than is shown only if nothing is; a command may fail only with a word.
    """
    got, _, status = printed.rpartition("status ")
    failed = status.strip() != "0"
    if step.block.language == "python":
        wrong = failed or not (matches(step.says, got) if step.says else got)
    elif step.code.startswith(DRAWS):
        wrong = failed
    else:
        wrong = not matches(step.says, got) or (failed and not got)
    return f"{step.block}\n{step.code}\n{printed}" if wrong else ""


def matches(said: str, got: str) -> bool:
    """Compare what a page says with what was printed; `…` on the page stands for anything."""
    pattern = re.escape(said.rstrip("\n")).replace("…", ".*")
    return bool(re.fullmatch(pattern, got.rstrip("\n"), re.DOTALL))


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Its commands and programs, in their order, print what stands there.

    A page that starts no server is read with an echo server beside it.
    """
    found = SESSIONS[page]
    tools = TOOLS.intersection(step.code.split()[0] for step in found)
    if missing := [tool for tool in tools if not which(tool, path=PATH)]:
        pytest.skip(f"needs {missing}")
    own = any(step.code.startswith("talkwire serve") for step in found)
    with nullcontext(free_target()) if own else serving() as target:
        free = [target, *(free_target() for _ in PORTS[1:])]
        ports = {port: one.rpartition(":")[2] for port, one in zip(PORTS, free, strict=True)}

        def moved(text: str) -> str:
            return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda port: ports[port[0]], text)

        for folder in ("deploy", "generated"):
            copytree(ROOT / folder, tmp_path / folder)
        envoy = tmp_path / "deploy/envoy/envoy.yaml"
        envoy.write_text(moved(envoy.read_text(encoding="utf-8")), encoding="utf-8")
        printed = ran(moved("".join(script(found))), tmp_path, ports["50051"])

    assert len(printed) == len(found)
    faults = [*filter(None, map(fault, found, printed))]
    assert not faults, "\n\n".join(faults)


def ran(script: str, folder: Path, port: str) -> list[str]:
    """Run a script in a folder, and leave nothing running; return what each step printed."""
    given = {
        "PATH": PATH,
        "TALKWIRE_TARGET": f"localhost:{port}",
        "TALKWIRE_SERVE_PORT": port,
    }
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=os.environ | given,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, _ = process.communicate()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return out.split(f"{NEXT}\n")[1:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_code_is_left_alone(page: Path) -> None:
    """What no session runs names the test that does, or why none can; plain text has no command."""
    for block in blocks(page):
        if block.language == "console":
            assert block.text.startswith("$ "), block
        elif block.language == "text":
            assert "$ " not in block.text, block
        elif block.language == "python":
            said = "# -> " in block.text or page == README  # whose model is a real one
            assert said or block.run_by, block
        else:
            assert block.run_by or block.not_run, block
        if block.run_by:
            file, _, test = re.findall(r"(tests/[\w/]+\.py)(::(\w+))?", block.run_by)[0]
            code = (ROOT / file).read_text(encoding="utf-8")
            assert f"def {test}(" in code if test else "def test_" in code, block
            assert all(name in code for name in re.findall(r"\w+\.py", block.text)), block


def test_the_first_program_has_seven_lines() -> None:
    """Seven lines of Python, the blank one included, are all that it takes."""
    first, *_ = (block for block in blocks(README) if block.language == "python")
    assert len(first.text.splitlines()) == 7
