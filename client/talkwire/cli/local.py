"""A server of the chat's own: started if nobody serves the target, ended however the chat ends.

The server watches its standard input, a pipe whose other end this process holds: when this process
ends, even by SIGKILL, the kernel closes the pipe and the server stops. Knows no engine.
"""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from talkwire._errors import ConnectError
from talkwire._sync import Client
from talkwire.cli import state
from talkwire.cli.status import FAILED, Complaint

Say = Callable[[str], None]

_LOCAL = re.compile(r"(localhost|127\.[\d.]+|\[::1\]):(\d+)|(unix:.+)")
_LOG_PREFIX = re.compile(r"^[\d-]+ [\d:,]+ talkwire [A-Z]+ ")
_TAIL = 12  # lines of the log that explain a failed start


@contextmanager
def serving(target: str, arguments: Sequence[str], say: Say) -> Iterator[None]:
    """See to it that the target is served for the length of the block; `say` how that goes."""
    host, port = _address(target)
    with ExitStack() as stack:
        with Client(target, tls=False, timeout=5.0, connect_timeout=5.0) as client:
            if _is_taken(host, port):
                _wait_for_other(client, say)
            else:
                arguments = ["--host", host, "--port", str(port), *arguments]
                _prepare(arguments)
                log = state.folder() / "serve.log"
                say(f"starting a server; its log is {log}")
                process = _start(arguments, log)
                stack.callback(end, process)
                _wait_for_own(process, client, log, say)
        yield


def end(process: subprocess.Popen[bytes], patience: float = 5.0) -> None:
    """Close the server's standard input; help if it has not ended after `patience` seconds."""
    if process.stdin:
        process.stdin.close()
    for help_along in (process.terminate, partial(os.killpg, process.pid, signal.SIGKILL)):
        try:
            process.wait(patience)
            return
        except subprocess.TimeoutExpired:
            help_along()
    process.wait()


def _address(target: str) -> tuple[str, int]:
    if not (match := _LOCAL.fullmatch(target)):
        text = f"--local serves on this machine; {target} is not localhost:PORT or unix:PATH"
        raise Complaint(text)
    host, port, path = match.groups()
    if path:
        return path, 0
    return "127.0.0.1" if host == "localhost" else host.strip("[]"), int(port)


def _is_taken(host: str, port: int) -> bool:
    """Tell whether somebody listens there, be it too busy to answer, as when it loads."""
    try:
        if path := host.partition("unix:")[2]:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
        else:
            socket.create_connection((host, port), timeout=2).close()
    except OSError:
        return False
    return True


def _prepare(arguments: Sequence[str]) -> None:
    """Make the embedded model, if the server will want it, here where its progress is seen."""
    try:
        from talkwire_server import model, options
    except ImportError:
        return  # the server will say what is missing
    settings = options.parse(arguments, os.environ)
    if settings.engine == "vllm" and settings.model is None:
        try:
            model.prepare()
        except model.ModelError as error:
            raise Complaint(str(error), FAILED) from None


def _start(arguments: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
    log.unlink(missing_ok=True)  # not truncated: another chat's server may still write there
    with log.open("xb") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "talkwire", "serve", "--stop-on-eof", *arguments],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is the chat's
        )


def _wait_for_other(client: Client, say: Say) -> None:
    """Wait for a server that loads; not for one that is none, or that went away."""
    if not client.ready():
        say(f"waiting for the server on {client.target}")
        while not client.ready(5.0):
            try:
                client.models()
            except ConnectError:
                text = f"what listens on {client.target} does not answer as a server of chats"
                raise Complaint(text, FAILED) from None


def _wait_for_own(process: subprocess.Popen[bytes], client: Client, log: Path, say: Say) -> None:
    with log.open(encoding="utf-8", errors="replace") as lines:
        serves = False
        while not serves:
            serves = client.ready(0.5)
            for line in lines:
                if text := _LOG_PREFIX.sub("", line).strip():
                    say(text)
            if not serves and process.poll() is not None:
                raise Complaint(_failure(process.returncode, log), FAILED)


def _failure(code: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join([f"the server ended with status {code}; the end of {log}:", *lines[-_TAIL:]])
