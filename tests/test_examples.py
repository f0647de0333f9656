"""The examples, each run as its reader would run it, against an echo server of its own process."""

import ast
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from processes import ROOT, ServerProcess, launched, serving

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_is_short_explained_and_tested(file: Path) -> None:
    """It has at most 40 lines, says how to run it, and has a test of its name."""
    text = file.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""

    assert len(text.splitlines()) <= 40
    assert "Run `make serve" in docstring
    assert f"examples/{file.name}`" in docstring or f"examples {file.stem}:app`" in docstring
    assert f"test_{file.stem}" in globals()


@contextmanager
def python(*arguments: str, target: str) -> Iterator[subprocess.Popen[str]]:
    """Run Python for the length of the block, with the target of the clients in it."""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"TALKWIRE_TARGET": target},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def printed(name: str, target: str) -> list[str]:
    """Run an example to its end; return the lines that it prints."""
    with python("-W", "error", f"examples/{name}.py", target=target) as process:
        out, err = process.communicate()
    assert (err, process.returncode) == ("", 0)
    return out.splitlines()


def test_chat(target: str) -> None:
    """One answer comes whole, with what it took, another piece by piece."""
    whole, facts, streamed, reason = printed("chat", target)

    assert whole == "What is the capital of France?"
    assert re.fullmatch(r"6 tokens in \d+\.\d\d s, echo", facts)
    assert (streamed, reason) == ("Tell me a story about the sea.", "stop")


def test_many_chats(target: str) -> None:
    """A hundred chats at once are answered, each with its own."""
    facts, answer = printed("many_chats", target)

    assert re.match(r"100 answers, \d+ tokens a second", facts)
    assert answer == "What is 21 plus 21?"


def test_one_call(target: str) -> None:
    """Hundreds of streams share a call, and the impatient one ends alone."""
    facts, answer = printed("one_call", target)

    assert facts == "199 whole answers, 1 left"
    assert answer == "What is 21 plus 21?"


def test_conversation(target: str) -> None:
    """Turns are remembered, taken back, forked, saved and loaded."""
    assert printed("conversation", target) == [
        "What is the capital of France?",
        "And of Italy?",
        "taken back: And of Italy?",
        "And of Germany?",
        "2 messages here, 4 there",
        "4 messages here, 12 tokens said",
    ]


def test_tools(target: str) -> None:
    """A function is called with what the model gives, and the answer says what it returned."""
    called, answer, *history = printed("tools", target)

    assert called == "weather('Paris', 'celsius')"
    assert answer == "It is 18 degrees celsius and sunny in Paris."
    roles = [line for line in history if line.startswith("role")]
    assert roles == [f"role: ROLE_{role}" for role in ("USER", "ASSISTANT", "TOOL", "ASSISTANT")]


def test_structured_output(target: str) -> None:
    """An answer becomes a value, which grows while it is streamed; a choice is one of its texts."""
    sentence, *growing, choice = printed("structured_output", target)

    assert sentence == "Ada Lovelace, born in 1815, was good at mathematics and poetry."
    assert {"{'name': 'Ada'}", "{'name': 'Ada Lovelace', 'born': 1815}"} < set(growing)
    assert choice == "mathematician"


def test_images(target: str) -> None:
    """A picture of PIL's is sent as PNG, and counted."""
    question, picture, tokens = printed("images", target)

    assert question == "Which colour is this?"
    assert re.fullmatch(r"\[image/png \d+ bytes\]", picture)
    assert tokens == "1 of 10 tokens were the picture"


def test_stopping() -> None:
    """An answer is left, stopped, ended by its time limit and failed by its deadline."""
    with serving("--echo-delay=0.1") as slow:
        left, first, stopped, limited, late = printed("stopping", slow)

    assert (left, first) == ("left: Tell me a", "Tell")
    assert re.match(r"aborted after \d+ tokens: Tell", stopped)
    assert re.match(r"time_limit after \d+ tokens:", limited)
    assert late.startswith("too late:")


def test_resuming() -> None:
    """When one server after the other is killed in mid-answer, the answer goes on at the next."""
    with launched("--echo-delay=1") as server:
        target = server.target
        again = f"--port={target.rpartition(':')[2]}"
        with python("examples/resuming.py", target=target) as talker:
            begun = _killed_after("Tell me", server, talker)
            with launched("--echo-delay=1", again) as second:
                begun += _killed_after(" a story", second, talker)
            with launched(again):
                rest, err = talker.communicate()

    assert (err, talker.returncode) == ("", 0)
    assert (begun + rest).splitlines() == ["Tell me a story about the sea.", "7 tokens, stop"]


def _killed_after(text: str, server: ServerProcess, talker: subprocess.Popen[str]) -> str:
    """Kill a server when a client of it has printed as much; return what it printed."""
    assert talker.stdout
    said = talker.stdout.read(len(text))
    server.process.kill()
    server.process.wait()
    assert talker.poll() is None
    return said


# The backend, and a browser


@contextmanager
def backend(target: str) -> Iterator[str]:
    """Run the backend; yield its address, and see that it complains of nothing."""
    command = ("-m", "uvicorn", "--app-dir=examples", "--port=0", "fastapi_sse:app")
    with python(*command, target=target) as process:
        assert process.stderr
        running = next(line for line in process.stderr if "running on" in line)
        yield running.split()[4]
        process.terminate()
        _, log = process.communicate()
    assert "ERROR" not in log


@contextmanager
def asking(address: str, query: str) -> Iterator[httpx.Response]:
    """Ask as a browser does; leaving the block closes the connection."""
    with httpx.stream(
        "GET", f"{address}/chat", params={"query": query}, timeout=60, trust_env=False
    ) as response:
        yield response


def events(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Read the names of events, and their data."""
    name = "message"
    for line in response.iter_lines():
        key, _, value = line.partition(": ")
        if key == "event":
            name = value
        elif key == "data":
            yield name, json.loads(value)


def test_fastapi_sse(target: str) -> None:
    """A browser gets an event a chunk, white space included, and then the reason of the end."""
    with backend(target) as address, asking(address, "one two\n\nthree") as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        *words, end = events(response)

    assert words == [("message", text) for text in ("one", " two", "\n\nthree", "")]
    assert end == ("end", "stop")


@pytest.mark.parametrize(("delay", "read"), [(60, 0), (0.1, 3)], ids=["early", "amid"])
def test_a_browser_that_leaves_stops_the_server(delay: float, read: int) -> None:
    """Whether a word has come or not, the server has nothing left to do, long before the end."""
    flags = (f"--echo-delay={delay}", "--grace=30")
    with launched(*flags) as server, backend(server.target) as address:
        with asking(address, "word " * 1000) as response:
            said = events(response)
            assert [next(said)[1].strip() for _ in range(read)] == ["word"] * read
        server.signal(signal.SIGTERM)
        status, log = server.ends()

    assert status == 0, log  # no call was left to be cut


def test_a_browser_hears_of_failures_but_not_of_what_is_behind() -> None:
    """A refusal is an HTTP status, a failure amid the answer its last event; no address shows."""
    with launched("--echo-delay=0.1") as server, backend(server.target) as address:
        with asking(address, "") as refused:
            assert (refused.status_code, refused.read()) == (400, b'{"detail":"INVALID_ARGUMENT"}')
        with asking(address, "word " * 1000) as response:
            said = events(response)
            next(said)
            server.process.kill()
            assert [*said][-1] == ("end", "UNAVAILABLE")
        with asking(address, "hello") as refused:
            assert (refused.status_code, refused.read()) == (503, b'{"detail":"UNAVAILABLE"}')
