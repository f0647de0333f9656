"""`talkwire chat --local`: the server that it starts, and how that ends."""

import signal
import subprocess
import time
from pathlib import Path
from subprocess import PIPE

import pytest

from processes import launched
from talkwire import Client
from talkwire.cli.local import end
from terminal import TALKWIRE, chatting, free_target, talkwire

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

ECHO = ("--", "--engine=echo")


@pytest.fixture(autouse=True)
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The log of the server that the test starts."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "talkwire" / "serve.log"


def serves(target: str) -> bool:
    """Tell whether somebody serves."""
    with Client(target) as client:
        return client.ready()


# A server of its own


def test_a_pipe_gets_an_answer_from_a_server_that_ends(log: Path) -> None:
    """Stdout is the answer; stderr tells how the start goes; the server has ended when it ends."""
    target = free_target()
    ended = talkwire("chat", target, "--local", *ECHO, stdin="one two")

    assert (ended.status, ended.out) == (0, "one two\n")
    first, *others = ended.err.splitlines()
    assert first == f"starting a server; its log is {log}"
    assert f"listening on {target}; loading" in others
    assert log.read_text().endswith("stopped\n")
    assert not serves(target)


def test_a_terminal_gets_a_chat_and_a_server_that_ends(log: Path) -> None:
    """The chat begins when the server serves, and the server ends with the chat."""
    target = free_target()
    with chatting(target, "--local", *ECHO) as terminal:
        assert f"listening on {target}; loading\n" in terminal.prompt()
        assert "one two" in terminal.says("one two")
        assert terminal.leaves() == 0

    assert log.read_text().endswith("stopped\n")


def test_ctrl_c_does_not_reach_the_server() -> None:
    """Ctrl-C stops the answer, not the server: the next question is answered."""
    with chatting(free_target(), "--local", *ECHO, "--echo-delay=0.2") as terminal:
        terminal.prompt()
        terminal.types("word " * 500)
        terminal.sees(" word")
        terminal.interrupts()
        assert terminal.prompt().endswith("stopped")

        assert "one two" in terminal.says("one two")


def test_killing_the_chat_ends_the_server(log: Path) -> None:
    """Even when the chat is killed and can do nothing any more, its server ends by itself."""
    target = free_target()
    with chatting(target, "--local", *ECHO) as terminal:
        terminal.prompt()
        terminal.child.kill(signal.SIGKILL)
        terminal.child.wait()
        while not log.read_text().endswith("stopped\n"):
            time.sleep(0.05)

    assert not serves(target)


def test_ctrl_c_leaves_the_start(log: Path) -> None:
    """Ctrl-C while the server starts ends both."""
    with chatting(free_target(), "--local", "--", "--engine=echo") as terminal:
        terminal.sees("starting a server")
        terminal.interrupts()

        assert terminal.ends() == 130
        assert "Traceback" not in terminal.child.before


def test_a_socket_works_too(tmp_path: Path) -> None:
    """The target may be a unix socket."""
    ended = talkwire("chat", f"unix:{tmp_path}/socket", "--local", *ECHO, stdin="one")

    assert (ended.status, ended.out) == (0, "one\n")


def test_a_server_that_does_not_start_shows_why(log: Path) -> None:
    """When the server ends before it serves, the end of its log is shown."""
    target = free_target()
    elsewhere = ("--host=192.0.2.1", "--allow-insecure")
    ended = talkwire("chat", target, "--local", *ECHO, *elsewhere, stdin="one")

    assert (ended.status, ended.out) == (1, "")
    assert f"talkwire: the server ended with status 1; the end of {log}:\n" in ended.err
    assert "cannot listen on 192.0.2.1:" in ended.err


def test_wrong_server_arguments_are_refused_before_a_server_starts(log: Path) -> None:
    """What the server would not take is said at once, as `talkwire serve` says it."""
    ended = talkwire("chat", free_target(), "--local", *ECHO, "--grace=-1", stdin="one")

    assert (ended.status, ended.out) == (2, "")
    assert ended.err.endswith("talkwire serve: error: --grace must be >= 0, got -1\n")
    assert not log.exists()


def test_a_server_is_started_on_this_machine_only() -> None:
    """A target elsewhere is refused at once."""
    ended = talkwire("chat", "example.org:50051", "--local", stdin="one")

    expected = (
        "talkwire: --local serves on this machine; "
        "example.org:50051 is not localhost:PORT or unix:PATH\n"
    )
    assert (ended.status, ended.err) == (2, expected)


# Somebody else's server


def test_a_server_that_is_there_is_used_and_left_alone(log: Path) -> None:
    """With a server on the target, none is started and that one stays."""
    with launched("--served-model-name=theirs") as server:
        ended = talkwire("chat", server.target, "--local", *ECHO, stdin="one")

        assert (ended.status, ended.out, ended.err) == (0, "one\n", "")
        assert not log.exists()
        assert serves(server.target)


def test_a_server_that_is_too_busy_to_answer_is_waited_for(log: Path) -> None:
    """A server that does not answer, as one that loads may not, is there all the same."""
    with launched() as server:
        command = [*TALKWIRE, "chat", server.target, "--local", *ECHO]
        server.signal(signal.SIGSTOP)
        with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True) as asking:
            assert asking.stdin
            assert asking.stderr
            asking.stdin.write("one")
            asking.stdin.close()
            said = asking.stderr.readline()
            server.signal(signal.SIGCONT)
            assert asking.stdout
            answer = asking.stdout.read()

        assert (said, answer) == (f"waiting for the server on {server.target}\n", "one\n")
        assert not log.exists()


# A server that will not end


@pytest.mark.parametrize(
    ("trap", "status"),
    [("", -signal.SIGTERM), ("trap '' TERM;", -signal.SIGKILL)],
    ids=["deaf to its stdin", "deaf to SIGTERM"],
)
def test_a_server_that_does_not_end_is_ended(trap: str, status: int) -> None:
    """First its stdin is closed, then it is told to stop, at last it is killed."""
    with subprocess.Popen(
        ["sh", "-c", f"{trap} echo deaf; while :; do sleep 1; done"],
        stdin=PIPE,
        stdout=PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"deaf\n"
        end(process, patience=0.2)

    assert process.returncode == status
