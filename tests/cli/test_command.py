"""The `talkwire` command itself: its help, what it says when a part is missing, exit statuses."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from credentials import TokenFile
from processes import launched
from talkwire import _errors
from talkwire.cli.status import _STATUSES, MEANINGS, status
from terminal import chatting, free_target, talkwire

ERRORS = [
    kind
    for kind in vars(_errors).values()
    if isinstance(kind, type) and issubclass(kind, _errors.Error)
]


def without(module: str) -> list[str]:
    """Return the command that runs talkwire as if a module were not installed."""
    program = (
        f"import sys; sys.modules[{module!r}] = None; from talkwire.cli import main; "
        "sys.exit(main())"
    )
    return [sys.executable, "-c", program]


def test_help_names_every_command() -> None:
    """`talkwire --help` lists the commands, on stdout."""
    ended = talkwire("--help")

    assert ended.status == 0
    for name in ("chat", "ask", "top", "ready", "serve", "token", "model"):
        assert f"\n  {name} " in ended.out


def test_version() -> None:
    """`talkwire --version` says name and version."""
    ended = talkwire("--version")

    assert (ended.status, ended.out.split()[0]) == (0, "talkwire")


def test_no_command_is_wrong() -> None:
    """Without a command there is help, on stderr, and the status of wrong usage."""
    ended = talkwire()

    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("talkwire: which command?\n\nusage: talkwire COMMAND")


def test_an_unknown_command_names_the_nearest() -> None:
    """A typing error is answered with what was meant."""
    ended = talkwire("cht")

    expected = "talkwire: no command 'cht' (did you mean chat?); see talkwire --help\n"
    assert (ended.status, ended.err) == (2, expected)


@pytest.mark.parametrize("command", ["serve", "token", "model"])
def test_the_servers_own_arguments_pass_through(command: str) -> None:
    """What belongs to the server hands its arguments on untouched."""
    ended = talkwire(command, "--help")

    assert ended.status == 0
    assert ended.out.startswith(f"usage: talkwire {command}")


def test_serve_without_the_server_names_the_extras() -> None:
    """Where the server's modules are not installed, one line says how to install them."""
    ended = subprocess.run(
        [*without("uvloop"), "serve"], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 2
    assert ended.stderr == (
        "talkwire: `talkwire serve` needs the module 'uvloop': pip install 'talkwire[cpu]', "
        "on a machine with an NVIDIA GPU 'talkwire[gpu]'\n"
    )


@pytest.mark.parametrize("module", ["prometheus_client", "rich"])
def test_top_without_its_extra_names_it(module: str) -> None:
    """The same for what shows metrics."""
    ended = subprocess.run([*without(module), "top"], capture_output=True, text=True, check=False)

    assert ended.returncode == 2
    assert ended.stderr.startswith(f"talkwire: `talkwire top` needs the module '{module}")
    assert "pip install 'talkwire[cli]'" in ended.stderr


@pytest.mark.parametrize("module", ["prompt_toolkit", "rich"])
def test_chat_without_its_extra_names_it(module: str) -> None:
    """Where the terminal's libraries are not installed, one line says how to install them."""
    with chatting(command=without(module)) as terminal:
        shown = terminal.sees("'talkwire[cli]'")

        assert shown.startswith(f"talkwire: `talkwire chat` needs the module '{module}")
        assert terminal.ends() == 2


def test_a_broken_installation_is_not_hidden() -> None:
    """A module of talkwire's own that is missing is a fault of ours, and shown as one."""
    ended = subprocess.run(
        [*without("talkwire_server.cli"), "serve"], capture_output=True, text=True, check=False
    )

    assert ended.returncode == 1
    assert "Traceback" in ended.stderr


def test_a_client_that_cannot_be_made_is_wrong_usage() -> None:
    """A token is not sent in the clear to another machine: one line, and the status of usage."""
    ended = talkwire("ask", "hi", "--target", "example.org:1", TALKWIRE_TOKEN="secret")

    expected = "talkwire: a token for example.org:1 would travel in the clear: use tls=True\n"
    assert (ended.status, ended.err) == (2, expected)


def test_a_file_that_cannot_be_read_is_one_line() -> None:
    """A certificate file that is not there is named, without a traceback."""
    ended = talkwire("ask", "hi", TALKWIRE_CA_FILE="/nowhere/ca.pem")

    expected = "talkwire: [Errno 2] No such file or directory: '/nowhere/ca.pem'\n"
    assert (ended.status, ended.err) == (2, expected)


# Exit statuses


def statuses() -> Iterator[tuple[type[_errors.Error], int]]:
    """Every kind of error with its exit status."""
    for kind in ERRORS:
        error = kind("", code=grpc.StatusCode.UNKNOWN)
        yield kind, status(error)


def test_every_error_has_a_status_that_help_explains() -> None:
    """No kind of error is without a status of its own or its parent's, none without a meaning."""
    assert {code for _, code in statuses()} <= MEANINGS.keys()
    assert not [kind for kind in _STATUSES if kind not in ERRORS]


def test_kinds_of_errors_have_statuses_by_kind() -> None:
    """What a script would treat differently, it can tell apart."""
    assert {kind.__name__: code for kind, code in statuses()} == {
        "Error": 1,
        "ServerError": 1,
        "Cancelled": 1,
        "InvalidRequest": 2,
        "ContextLengthExceeded": 2,
        "MediaUnreadable": 2,
        "MediaNotFound": 2,
        "RequestIdInUse": 2,
        "Unsupported": 2,
        "Unavailable": 3,
        "ConnectError": 3,
        "Timeout": 4,
        "ModelNotFound": 5,
        "Unauthenticated": 6,
        "PermissionDenied": 6,
        "Overloaded": 7,
    }


# talkwire ready


def test_ready_says_no_where_nobody_listens() -> None:
    """`talkwire ready` ends with 1 and one line on stderr."""
    target = free_target()
    ended, dead = talkwire("ready", target), talkwire("ready", "--alive", target)

    assert (ended.status, ended.err) == (1, f"talkwire: {target} does not serve\n")
    assert (dead.status, dead.err) == (1, f"talkwire: {target} does not answer\n")


def test_a_server_that_wants_a_token_is_alive(tmp_path: Path) -> None:
    """A refusal is an answer: a secret that is replaced costs no pod."""
    tokens = TokenFile(tmp_path / "tokens.yaml")
    tokens.add("ada")
    with launched(f"--token-file={tokens.path}", "--no-open-health") as server:
        ended, alive = talkwire("ready", server.target), talkwire("ready", "--alive", server.target)

    assert (ended.status, alive.status) == (1, 0)
