"""The `talkwire` command: finds the subcommand and turns failures into one line and a status.

It knows no flags: each subcommand parses its own, and is imported when it is called.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version

from talkwire._errors import Error
from talkwire.cli.nearest import nearest
from talkwire.cli.status import BROKEN_PIPE, INTERRUPTED, USAGE, Complaint, harmless, status

_CLI = "pip install 'talkwire[cli]'"
_RAY = "pip install 'talkwire[ray]'"
_SERVER = "pip install 'talkwire[cpu]', on a machine with an NVIDIA GPU 'talkwire[gpu]'"


@dataclass(frozen=True, slots=True)
class _Command:
    """A subcommand: the module whose `main(argv)` it is, and how to get what that imports."""

    help: str
    module: str
    remedy: str


_COMMANDS: Mapping[str, _Command] = {
    "chat": _Command("talk to a model in this terminal", "talkwire.cli.chat", _CLI),
    "ask": _Command("ask one question; for scripts and pipes", "talkwire.cli.ask", _CLI),
    "top": _Command("show what servers do just now", "talkwire.cli.top", _CLI),
    "ready": _Command("tell whether a server serves", "talkwire.cli.ready", _CLI),
    "serve": _Command("serve a model", "talkwire_server.cli", _SERVER),
    "ray": _Command("serve a model on a Ray cluster", "talkwire_server.ray_serve.command", _RAY),
    "token": _Command("make a token for who calls", "talkwire_server.security.command", _SERVER),
    "model": _Command("manage the embedded default model", "talkwire_server.model", _SERVER),
}

_ROWS = "\n".join(f"  {name:<7}{command.help}" for name, command in _COMMANDS.items())

_HELP = f"""\
usage: talkwire COMMAND ...

vLLM behind two typed gRPC calls.

{_ROWS}

`talkwire COMMAND --help` says more, `talkwire --version` which version this is.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    # gRPC would write to the terminal when a server leaves; what matters is raised as an Error.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    name, *rest = (sys.argv[1:] if argv is None else argv) or [""]
    try:
        if name in ("-h", "--help"):
            sys.stdout.write(_HELP)
            return 0
        if name == "--version":
            sys.stdout.write(f"talkwire {version('talkwire')}\n")
            return 0
        return _run(name, rest)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the answer has left. Python must not fail again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Error as error:
        return _complain(error.message, status(error))
    except Complaint as complaint:
        return _complain(str(complaint), complaint.status)
    except OSError as error:
        return _complain(str(error), USAGE)


def _run(name: str, argv: Sequence[str]) -> int:
    if name not in _COMMANDS:
        if not name:
            raise Complaint(f"which command?\n\n{_HELP}")
        raise Complaint(f"no command {name!r}{nearest(name, _COMMANDS)}; see talkwire --help")
    command = _COMMANDS[name]
    try:
        run: Callable[[Sequence[str]], int] = import_module(command.module).main
        return run(argv)
    except ModuleNotFoundError as error:
        if (error.name or "talkwire").startswith("talkwire"):
            raise
        text = f"`talkwire {name}` needs the module {error.name!r}: {command.remedy}"
        raise Complaint(text) from None


def _complain(text: str, code: int) -> int:
    sys.stderr.write(f"talkwire: {harmless(text.rstrip())}\n")
    return code
