"""README.md and docs/, each page followed to the letter, but for the ports."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from pages import PAGES, Step, blocks, steps
from processes import ROOT, serving
from terminal import free_target

NEXT = "=== next"
OURS = re.compile(r"\b5005\d\b")  # the ports on the pages
SERVE = re.compile(r"talkwire serve (?!.*(--help|&$))")
DRAWS = ("openssl",)  # dots, each time others

SESSIONS = {page: found for page in PAGES if (found := [*steps(page)])}


def script(steps: list[Step]) -> Iterator[str]:
    """Write a page down for bash, with a mark and the last status before each step.

    A server that would hold a terminal of its own is started beside, in place of the one before.
    """
    yield "exec 2>&1\ntrap 'kill $(jobs -p) 2> /dev/null' EXIT\n"
    for step in steps:
        yield f"echo '{NEXT}'\n"
        if step.block.language == "python":
            yield f"python -W error - <<'PROGRAM'\n{step.code}PROGRAM\n"
        elif SERVE.match(step.code):
            port = re.search(r"--port (\d+)", step.code)
            target = f"localhost:{port[1]}" if port else ""
            yield "if [ -n \"$beside\" ]; then kill $beside; wait $beside; fi\n"
            yield f"{step.code} 2>> serving.log &\nbeside=$!\ntalkwire ready --timeout 60 {target}\n"
        else:
            yield f"{step.code}\n"
        yield "echo \"status $?\"\n"


def fault(step: Step, printed: str) -> str:
    """Say what is wrong with what a step printed; `…` on the page stands for anything."""
    got, _, status = printed.rpartition("status ")
    failed = status.strip() != "0"
    if step.block.language == "python":
        wrong = failed or not got
        wrong |= bool(step.says) and not matches(step.says, got)
    elif step.code.startswith(DRAWS):
        wrong = failed
    else:
        wrong = not matches(step.says, got) or (failed and not got)
    return f"{step.block}\n{step.code}\n{printed}" if wrong else ""


def matches(said: str, got: str) -> bool:
    pattern = re.escape(said.rstrip("\n")).replace("…", ".*")
    return bool(re.fullmatch(pattern, got.rstrip("\n"), re.DOTALL))


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.stem)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    """Its commands and programs, in their order, print what stands there.

    A page that starts no server is read with an echo server beside it.
    """
    found = SESSIONS[page]
    own = any(step.code.startswith("talkwire serve") for step in found)
    with nullcontext(free_target()) if own else serving() as target:
        ports = {"50051": target.rpartition(":")[2]}
        ports |= {f"5005{n}": free_target().rpartition(":")[2] for n in (2, 3)}
        done = subprocess.run(
            ["bash", "-c", OURS.sub(lambda port: ports[port[0]], "".join(script(found)))],
            cwd=tmp_path,
            env=os.environ
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "TALKWIRE_TARGET": f"localhost:{ports['50051']}",
                "TALKWIRE_SERVE_PORT": ports["50051"],
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
        )
    printed = done.stdout.split(f"{NEXT}\n")[1:]

    assert len(printed) == len(found)
    faults = [*filter(None, map(fault, found, printed))]
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_code_is_left_alone(page: Path) -> None:
    """What is neither run nor plain text names the test that sees to it, or why none can."""
    for block in blocks(page):
        run = block.language in ("python", "console", "text")
        assert run or block.run_by or block.not_run, f"{block}: neither run nor marked"
        for named in re.findall(r"tests/[\w/]+\.py(?:::\w+)?", block.run_by):
            file, _, test = named.partition("::")
            assert f"def {test}" in (ROOT / file).read_text(encoding="utf-8"), block
        assert not block.run_by or "tests/" in block.run_by, f"{block}: names no test"


def test_the_first_program_has_seven_lines() -> None:
    """Seven lines of Python, the blank one included, are all that it takes."""
    first, *_ = (block for block in blocks(PAGES[0]) if block.language == "python")
    assert len(first.text.splitlines()) == 7
