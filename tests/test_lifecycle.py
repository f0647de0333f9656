"""The life of a server process: how it begins, tells its health, drains and ends."""

import asyncio
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from processes import launched
from support import running
from talkwire import Cancelled, Client, Timeout, Unavailable
from talkwire_server.echo import EchoEngine
from talkwire_server.server import SERVICES, Server
from talkwire_server.settings import Settings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

STOPS = pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])

# An answer of 3 MB, more than lies unread on a connection: its stream runs as long as the test
# leaves it unread, and ends when the test reads it.
HELD = " ".join(["x" * 10_000] * 300)
FIXED_WINDOW = (("grpc.http2.bdp_probe", 0),)

# An answer that takes far longer than the grace: a server that leaves with status 0 has not
# waited for its end.
ENDLESS = ("--echo-delay=0.05", "--grace=20")
LONG = "word " * 4000


def client(target: str) -> Client:
    """Connect a client that never tries again and does not read ahead."""
    return Client(target, retry=None, channel_options=FIXED_WINDOW)


# Health


@pytest.mark.parametrize("service", ["", *SERVICES])
async def test_health_follows_the_life_of_a_server(service: str) -> None:
    """A Watch is told NOT_SERVING while it loads, SERVING, and NOT_SERVING when it drains."""
    server = Server(Settings(port=0), EchoEngine(["echo"], "", 0))
    await server.listen()
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        watch = stub.Watch(request)
        told = [(await watch.read()).status]
        await server.load()
        told.append((await watch.read()).status)
        checked = (await stub.Check(request)).status
        await server.drain()
        told.append((await watch.read()).status)
        await server.close()

    assert told == [NOT_SERVING, SERVING, NOT_SERVING]
    assert checked == SERVING


@STOPS
def test_who_watches_an_idle_server_is_told_that_it_leaves(stop: int) -> None:
    """Even where nothing keeps the server, NOT_SERVING is sent before the connection ends."""
    with launched() as server, client(server.target) as caller:
        watch = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest())
        told = [next(watch).status]
        server.signal(stop)
        told.append(next(watch).status)
        status, _ = server.ends()

    assert told == [SERVING, NOT_SERVING]
    assert status == 0


async def test_a_loading_server_says_so() -> None:
    """A chat with a server that still loads is refused as MODEL_LOADING, with a time to retry."""
    server = Server(Settings(port=0), EchoEngine(["echo"], "", 0))
    await server.listen()
    with client(server.address) as caller, pytest.raises(Unavailable) as refused:
        await asyncio.to_thread(caller.chat, "hi")
    await server.close()

    assert refused.value.reason == "MODEL_LOADING"
    assert refused.value.retry_after == 1


# Drain


@STOPS
def test_a_stop_lets_a_running_stream_finish(stop: int) -> None:
    """From a signal on health says so and nobody can connect; what runs ends in full: status 0."""
    with launched() as server, client(server.target) as caller:
        watch = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest())
        told = [next(watch).status]
        with caller.stream(HELD) as stream:
            next(stream)
            server.signal(stop)
            line = server.logs("stopping")
            told.append(next(watch).status)
            while connects(server.target):
                time.sleep(0.01)
            answer = stream.wait()
        status, _ = server.ends()

    assert "1 calls running" in line
    assert told == [SERVING, NOT_SERVING]
    assert answer.complete
    assert answer.text == HELD
    assert status == 0


def connects(target: str) -> bool:
    """Tell whether somebody listens."""
    host, _, port = target.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


async def test_a_leaving_server_says_so() -> None:
    """A chat that still comes to it is refused, with a time after which to try again."""
    async with running(EchoEngine(["echo"], "", 0)) as server:
        server.server.admission.close()
        with client(server.target) as caller, pytest.raises(Unavailable) as refused:
            await asyncio.to_thread(caller.chat, "hi")

    assert (refused.value.reason, refused.value.retry_after) == ("SHUTTING_DOWN", 1)


def test_a_lame_duck_takes_calls() -> None:
    """With `--lame-duck` health says NOT_SERVING first, while calls are still answered."""
    with launched("--lame-duck=60") as server, client(server.target) as caller:
        watch = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest())
        told = [next(watch).status]
        server.signal(signal.SIGTERM)
        told.append(next(watch).status)
        answer = caller.chat("hi")

    assert told == [SERVING, NOT_SERVING]
    assert answer.text == "hi"


def test_the_end_of_the_grace_tells_why_it_cuts() -> None:
    """A stream that outlasts the grace fails as SHUTTING_DOWN; what it has of the answer stays."""
    with (
        launched("--echo-delay=0.01", "--grace=0.1") as server,
        client(server.target) as caller,
        caller.stream(LONG, include={"token_ids": True}) as stream,
    ):
        next(stream)
        server.signal(signal.SIGTERM)
        with pytest.raises(Unavailable) as cut:
            stream.wait()
        status, log = server.ends()

    assert "1 calls did not finish within the grace" in log
    assert status == 1
    assert cut.value.reason == "SHUTTING_DOWN"
    assert cut.value.partial
    with launched() as other, client(other.target) as caller:
        answer = caller.chat(LONG, continuation=cut.value.partial)
    assert answer.text == LONG


def test_the_end_of_the_grace_cuts_what_still_runs() -> None:
    """So does a stream that nobody reads, but without a reason: there is no time for it."""
    with (
        launched("--grace=0.1") as server,
        client(server.target) as caller,
        caller.stream(HELD) as stream,
    ):
        next(stream)
        server.signal(signal.SIGTERM)
        status, log = server.ends()
        with pytest.raises(Unavailable) as cut:
            stream.wait()

    assert "1 calls did not finish within the grace" in log
    assert status == 1
    assert cut.value.partial
    assert HELD.startswith(cut.value.partial.text)


@STOPS
def test_a_second_signal_ends_at_once(stop: int) -> None:
    """Who asks twice does not wait for the grace; the exit status names the signal."""
    with launched() as server, client(server.target) as caller, caller.stream(HELD) as stream:
        next(stream)
        server.signal(signal.SIGTERM)
        server.logs("stopping")
        server.signal(stop)
        status, _ = server.ends()

    assert status == 128 + stop


def test_the_end_of_standard_input_stops_where_asked_for() -> None:
    """With `--stop-on-eof` a server leaves with its parent, whose pipe it reads."""
    with launched("--stop-on-eof") as server:
        server.logs("serving")
        status, log = server.ends()  # closes its standard input

    assert "stopping; 0 calls running" in log
    assert status == 0


# No call is left behind


def leave(caller: Client) -> None:
    """Leave a stream after its first word."""
    with caller.stream(LONG) as stream:
        next(stream)


def cancel(caller: Client) -> None:
    """Cancel a stream and read on."""
    with caller.stream(LONG) as stream:
        next(stream)
        stream.cancel()
        with pytest.raises(Cancelled):
            stream.wait()


def expire(caller: Client) -> None:
    """Wait no longer than half a second for an answer."""
    with pytest.raises(Timeout):
        caller.chat(LONG, timeout=0.5)


def hang_up(caller: Client) -> None:
    """Close the channel in the middle of a stream."""
    with caller.stream(LONG) as stream:
        next(stream)
        caller.close()


def kill(caller: Client) -> None:
    """Kill a process in the middle of its stream."""
    program = (
        "import sys, talkwire\n"
        "with talkwire.Client(sys.argv[1]).stream('word ' * 4000) as stream:\n"
        "    for chunk in stream: print(chunk, flush=True)\n"
    )
    command = [sys.executable, "-c", program, caller.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        process.kill()


@pytest.mark.parametrize("gone", [leave, cancel, expire, hang_up, kill])
def test_a_caller_that_is_gone_leaves_no_call(gone: Callable[[Client], None]) -> None:
    """However a caller goes, its call ends: a server asked to stop has nothing to wait for."""
    with launched(*ENDLESS) as server, client(server.target) as caller:
        gone(caller)
        server.signal(signal.SIGTERM)
        status, log = server.ends()

    assert "did not finish" not in log
    assert status == 0


def test_a_call_that_is_blocked_in_a_send_ends_too() -> None:
    """A stream that nobody reads is ended by leaving it, though the server waits to send."""
    with launched("--grace=20") as server, client(server.target) as caller:
        with caller.stream(HELD) as stream:
            next(stream)
        server.signal(signal.SIGTERM)
        status, _ = server.ends()

    assert status == 0


# How it begins


def test_a_taken_port_ends_it_with_one_line() -> None:
    """A server whose port is taken says so in one line and leaves with status 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with launched(f"--port={port}") as server:
            status, log = server.ends()

    errors = [line for line in log.splitlines() if "ERROR" in line]
    assert status == 1
    assert len(errors) == 1
    assert errors[0].endswith(f"cannot listen on 127.0.0.1:{port}: taken, or not this machine's")
    assert "Traceback" not in log


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """Each setting comes from where it is said last: file, environment, command line."""
    file = tmp_path / "serve.yaml"
    file.write_text(
        "served_model_name: [file]\ndefault_system: file\nport: 1\ngrace: -1\n", encoding="utf-8"
    )
    with (
        launched(
            f"--config={file}",
            "--grace=5",
            TALKWIRE_SERVE_DEFAULT_SYSTEM="environment",
            TALKWIRE_SERVE_PORT="2",
            TALKWIRE_SERVE_GRACE="-2",
        ) as server,
        client(server.target) as caller,
    ):
        model = caller.model()

    assert model.id == "file"
    assert model.default_system == "environment"


def test_wrong_settings_are_named_all_at_once() -> None:
    """Values that cannot work end the process with status 2 and a line that has each of them."""
    wrong = ["--port=70000", "--grace=-1", "--echo-delay=-1", "--host=", "--max-num-seqs=8"]
    with launched(*wrong) as server:
        status, log = server.ends()

    assert status == 2
    assert log.splitlines()[-1] == (
        "talkwire serve: error: --port must be >= 0 and <= 65535, got 70000; --grace must be >= 0, "
        "got -1; --echo-delay must be >= 0, got -1; the echo engine takes no --max-num-seqs=8; "
        "--host must not be empty"
    )


def test_what_grpc_cannot_keep_is_named() -> None:
    """Numbers beyond its 32 bits are wrong settings like any other, not a stack."""
    most = ("--max-message-bytes", "--max-metadata-bytes", "--max-concurrent-streams")
    others = ("--max-running-requests", "--max-queued-requests", "--handshake-timeout")
    with launched(*(f"{flag}=3000000000" for flag in (*most, *others))) as server:
        status, log = server.ends()

    assert status == 2
    (line,) = [line for line in log.splitlines() if "error: " in line]
    assert all(f"{flag} must be >= " in line for flag in (*most, *others))


def test_a_key_without_a_value_says_nothing(tmp_path: Path) -> None:
    """An empty key of the file leaves the default, rather than the word None."""
    file = tmp_path / "serve.yaml"
    file.write_text("default_system:\n", encoding="utf-8")
    with launched(f"--config={file}") as server, client(server.target) as caller:
        model = caller.model()

    assert model.default_system == Settings().default_system


@pytest.mark.parametrize(
    "content", [b"grace: [", b"- grace", b"", b"\xff"], ids=["broken", "list", "empty", "binary"]
)
def test_a_file_that_holds_no_settings_is_refused(content: bytes, tmp_path: Path) -> None:
    """What cannot be read from `--config` ends the process with status 2 and says so in words."""
    file = tmp_path / "serve.yaml"
    file.write_bytes(content)
    with launched(f"--config={file}") as server:
        status, log = server.ends()

    assert status == 2
    assert "talkwire serve: error: " in log
    assert "Traceback" not in log


def test_it_serves_on_a_unix_socket(tmp_path: Path) -> None:
    """`--host unix:PATH` serves on a socket of the file system, and takes it away at the end."""
    path = tmp_path / "talkwire.sock"
    with launched(f"--host=unix:{path}") as server:
        with client(server.target) as caller:
            answer = caller.chat("hi")
        server.signal(signal.SIGTERM)
        status, _ = server.ends()

    assert answer.text == "hi"
    assert status == 0
    assert not path.exists()
