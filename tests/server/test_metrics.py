"""Metrics of one server: each end of a chat is counted as what it was."""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from scraping import Meter, Page, until
from support import RunningServer, calling, running
from talkwire import Error
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.echo import EchoEngine
from talkwire_server.journal import Journal
from talkwire_server.settings import Settings
from talkwire_server.telemetry.chat_metrics import ChatMetrics

LONG = "word " * 500
CHAT = {"grpc_service": "talkwire.v1.ChatService"}


@pytest.fixture(params=["async", "async multiplexed"])
def kind(request: pytest.FixtureRequest) -> str:
    """Whether a chat is a call of its own; how its client waits is nothing that is counted."""
    return str(request.param)


@pytest.fixture
async def slow() -> AsyncIterator[RunningServer]:
    """A server whose answers take ten seconds."""
    async with running(EchoEngine(["echo"], "", 0.02), grace=0.1, metrics_port=0) as server:
        yield server


def url(server: RunningServer) -> str:
    assert server.server.metrics
    return server.server.metrics.url


async def meter(server: RunningServer) -> Meter:
    """Look at the page, in a thread: the server's own loop answers nothing there."""
    return await asyncio.to_thread(Meter, url(server))


def counted(name: str, **labels: str) -> float:
    """Return what was counted in this process, when no page tells it any more."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def gone(server: RunningServer) -> None:
    """Wait until no call is inside."""
    async with asyncio.timeout(10):
        await server.server.admission.empty()


async def test_an_answer_that_ended(kind: str, slow: RunningServer) -> None:
    """It is counted once, with the tokens of its usage and the seconds of its timing."""
    seen = await meter(slow)
    async with calling(kind, slow.target) as client, client.stream("a b c") as stream:
        answer = await stream.wait()
    await gone(slow)

    rpc = "ChatMultiplex" if "multiplexed" in kind else "ChatStream"
    await seen.rises("talkwire_chats_total", 1, rpc=rpc, code="OK", reason="")
    await seen.rises("talkwire_chats_total", 1)
    await seen.rises("talkwire_chats_finished_total", 1, model="echo", finish_reason="STOP")
    await seen.rises("talkwire_tokens_total", 3, model="echo", kind="completion")
    prompt = answer.usage.prompt_tokens
    await seen.rises("talkwire_tokens_total", prompt, model="echo", kind="prompt")
    await seen.rises("talkwire_caller_tokens_total", 3, caller="other", kind="completion")
    for name in ("queue", "first_token", "chat"):
        await seen.rises(f"talkwire_{name}_seconds_count", 1)
    spent = seen.rise("talkwire_first_token_seconds_sum")
    assert spent == pytest.approx(answer.timing.first_token, abs=1e-5)
    await seen.rises("talkwire_chats_aborted_total", 0)
    await seen.rises("talkwire_chats_rejected_total", 0)


async def test_messages_are_counted(slow: RunningServer) -> None:
    """A call of its own: a message in, one a word and one for the end out; shared: its events."""
    seen = await meter(slow)
    stream = {**CHAT, "grpc_method": "ChatStream", "grpc_type": "server_stream"}
    async with calling("async", slow.target) as client:
        async with client.stream("a b c") as answer:
            await answer.wait()
        await client.chat("a b")
    await seen.rises("grpc_server_started_total", 1, **stream)
    await seen.rises("grpc_server_handled_total", 1, **stream, grpc_code="OK")
    await seen.rises("grpc_server_handling_seconds_count", 1, **stream)
    await seen.rises("grpc_server_msg_received_total", 1, **stream)
    await seen.rises("grpc_server_msg_sent_total", 4, **stream)
    await seen.rises("grpc_server_msg_sent_total", 1, grpc_method="Chat", grpc_type="unary")
    await seen.rises("talkwire_multiplex_events_total", 0)

    shared = {**CHAT, "grpc_method": "ChatMultiplex", "grpc_type": "bidi_stream"}
    async with (
        calling("async multiplexed", slow.target) as client,
        client.stream("a b c") as one,
        client.stream("a b c") as other,
    ):
        await asyncio.gather(one.wait(), other.wait())
    await seen.rises("grpc_server_msg_received_total", 2, **shared)
    await seen.rises("talkwire_multiplex_events_total", 2 * 6)  # admitted, 4 deltas, a status
    assert 0 < seen.rise("grpc_server_msg_sent_total", **shared) < 2 * 6
    await seen.rises("grpc_server_handled_total", 1, **shared)
    await until(lambda: seen.rise("talkwire_frontend_cpu_seconds_total") > 0)


@pytest.mark.parametrize(
    ("request_", "code", "reason"),
    [
        ({}, "InvalidArgument", "INVALID_FIELD"),
        ({"query": "a", "model": "none"}, "NotFound", "MODEL_NOT_FOUND"),
        ({"query": "a", "stop_token_ids": [1]}, "FailedPrecondition", "UNSUPPORTED_FEATURE"),
    ],
)
async def test_a_refusal(
    kind: str, slow: RunningServer, request_: dict[str, Any], code: str, reason: str
) -> None:
    """It is a chat that was rejected, for its reason; no answer, and nothing that was aborted."""
    seen = await meter(slow)
    async with calling(kind, slow.target) as client:
        with pytest.raises(Error):
            async with client.stream(**request_) as stream:
                await stream.wait()

    await seen.rises("talkwire_chats_total", 1, code=code, reason=reason)
    await seen.rises("talkwire_chats_rejected_total", 1, reason=reason)
    await seen.rises("talkwire_chats_rejected_total", 1)
    await seen.rises("talkwire_chats_aborted_total", 0)
    await seen.rises("talkwire_queue_seconds_count", 0)


async def test_the_gate_as_it_is_now() -> None:
    """Who is inside, who waits and how many may are told; of more, each is one QUEUE_FULL."""
    bounds = {"max_running_requests": 2, "max_queued_requests": 1}
    async with (
        running(EchoEngine(["echo"], "", 0.02), metrics_port=0, **bounds) as server,
        calling("async", server.target, retry=None) as client,
    ):
        seen = await meter(server)
        async with client.stream(LONG) as one, client.stream(LONG) as two:
            await anext(aiter(one)), await anext(aiter(two))
            waiting = asyncio.create_task(client.chat(LONG))
            await until(lambda: Page(url(server)).value("talkwire_chats_waiting") == 1)
            with pytest.raises(Error):
                await client.chat("a")
            page = await asyncio.to_thread(Page, url(server))
            waiting.cancel()  # before another's place is free
            await until(lambda: Page(url(server)).value("talkwire_chats_waiting") == 0)
        await seen.rises("talkwire_chats_rejected_total", 1, reason="QUEUE_FULL")
        await seen.rises("talkwire_chats_aborted_total", 3, cause="client")
        await seen.rises("talkwire_abort_seconds_count", 2)  # one had no answer that was cut
        empty = await asyncio.to_thread(Page, url(server))

    names = ("chats_running", "chats_waiting", "places", "queue_places", "serving", "frontends")
    assert [page.value(f"talkwire_{name}") for name in names] == [2, 1, 2, 1, 1, 1]
    assert [empty.value(f"talkwire_{name}") for name in names[:2]] == [0, 0]
    assert page.labels("talkwire_build_info", "version") == {version("talkwire")}


async def leave(server: RunningServer, stream: Any) -> None:
    """Be a caller that leaves."""


async def wait(server: RunningServer, stream: Any) -> None:
    with pytest.raises(Error):
        await stream.wait()


async def die(server: RunningServer, stream: Any) -> None:
    await server.server.unload()
    await wait(server, stream)


@pytest.mark.parametrize(
    ("end", "options", "cause", "code"),
    [
        (leave, {}, "client", "Canceled"),
        (wait, {"timeout": 1}, "deadline", "DeadlineExceeded"),
        (die, {}, "engine_dead", "Unavailable"),
    ],
    ids=["client", "deadline", "engine_dead"],
)
async def test_a_cut(
    kind: str,
    slow: RunningServer,
    end: Callable[[RunningServer, Any], Awaitable[None]],
    options: dict[str, Any],
    cause: str,
    code: str,
) -> None:
    """It has one cause and is no answer; the engine was rid of it at once."""
    seen = await meter(slow)
    async with calling(kind, slow.target, retry=None) as client:
        async with client.stream(LONG, **options) as stream:
            await anext(aiter(stream))
            await end(slow, stream)
        await gone(slow)
        await seen.rises("talkwire_chats_aborted_total", 1, cause=cause)
    await seen.rises("talkwire_chats_aborted_total", 1)
    await seen.rises("talkwire_chats_total", 1, code=code)
    await seen.rises("talkwire_abort_seconds_count", 1)
    assert seen.rise("talkwire_abort_seconds_sum") < 1
    assert seen.rise("talkwire_tokens_total", kind="cut") > 0
    await seen.rises("talkwire_chats_finished_total", 0)
    if "multiplexed" not in kind:
        await seen.rises("grpc_server_handled_total", 1, grpc_method="ChatStream", grpc_code=code)


async def test_a_server_that_leaves(kind: str) -> None:
    """What is cut for the server's own sake is counted as that."""
    before = counted("talkwire_chats_aborted_total", cause="shutting_down")
    async with (
        running(EchoEngine(["echo"], "", 0.02), metrics_port=0) as server,
        calling(kind, server.target) as client,
        client.stream(LONG) as stream,
    ):
        await anext(aiter(stream))
        await server.server.close()
        with pytest.raises(Error):
            await stream.wait()

    assert counted("talkwire_chats_aborted_total", cause="shutting_down") == before + 1


async def test_a_slow_reader() -> None:
    """A stream that nobody reads is aborted by this server."""
    options = (("grpc.http2.bdp_probe", 0),)
    large = " ".join(["x" * 10_000] * 300)
    limits = {"slow_reader_timeout": 0.4, "metrics_port": 0}
    async with (
        running(EchoEngine(["echo"], "", 0), **limits) as server,
        grpc.aio.insecure_channel(server.target, options=options) as channel,
    ):
        seen = await meter(server)
        call = ChatServiceStub(channel).ChatStream(pb.ChatRequest(query=large))
        await anext(aiter(call))
        await gone(server)
        await seen.rises("talkwire_chats_aborted_total", 1, cause="slow_reader")
        await seen.rises("grpc_server_handled_total", 1, grpc_code="Aborted")


@pytest.mark.parametrize("multiplexed", [False, True])
async def test_a_client_that_leaves_amid_a_message(
    multiplexed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It has left, though gRPC tells the handler of a write that failed: that is no fault here."""
    options = (("grpc.http2.bdp_probe", 0),)
    request = pb.ChatRequest(query=" ".join(["x" * 10_000] * 300))
    async with running(EchoEngine(["echo"], "", 0), metrics_port=0) as server:
        seen = await meter(server)
        for _ in range(8):
            async with grpc.aio.insecure_channel(server.target, options=options) as channel:
                stub: Any = ChatServiceStub(channel)
                if multiplexed:
                    start = pb.ChatMultiplexRequest(call=1)
                    start.start.request.CopyFrom(request)
                    call = stub.ChatMultiplex(iter([start]))
                else:
                    call = stub.ChatStream(request)
                await anext(aiter(call))
                await asyncio.sleep(0.05)  # it reads no more, and the server fills what it may
                call.cancel()
        await gone(server)
        await seen.rises("talkwire_chats_aborted_total", 8, cause="client")
        await seen.rises("talkwire_chats_total", 8, code="Canceled", reason="")

    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_graceful_ends_are_answers(kind: str, slow: RunningServer) -> None:
    """Abort and a time limit finish an answer, with a reason; nothing is aborted."""
    seen = await meter(slow)
    async with calling(kind, slow.target) as client:
        async with client.stream(LONG, request_id="mine") as stream:
            await anext(aiter(stream))
            await client.call("abort", "mine")
            await stream.wait()
        async with client.stream(LONG, time_limit=0.2) as stream:
            await stream.wait()
    await gone(slow)

    for reason in ("ABORTED", "TIME_LIMIT"):
        await seen.rises("talkwire_chats_finished_total", 1, finish_reason=reason)
    await seen.rises("talkwire_chats_aborted_total", 0)


async def test_what_callers_make_up_is_no_label(slow: RunningServer) -> None:
    """Methods that nobody registered, models that there are not, and ids are nowhere."""
    before = await asyncio.to_thread(Page, url(slow))
    async with grpc.aio.insecure_channel(slow.target) as channel:
        for method in ("/talkwire.v1.ChatService/Invented", "/invented.Service/Method", "/x"):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(method)(b"")  # type: ignore[call-arg]  # as it is
        request = pb.ChatRequest(query="invented", model="invented", request_id="invented")
        with pytest.raises(grpc.aio.AioRpcError):
            await ChatServiceStub(channel).Chat(request)
    page = await asyncio.to_thread(Page, url(slow))

    assert "nvented" not in page.text
    name = "grpc_server_handled_total"
    both = page.labels(name, "grpc_method"), before.labels(name, "grpc_method")
    assert both[0] - both[1] <= {"Chat"}


async def test_callers_are_named_if_the_operator_named_them(tmp_path: Path) -> None:
    """Whoever else calls is one with all others; what they wrote is nowhere."""
    tokens = {name: f"{name}-{'0' * 40}" for name in ("ada", "eve")}
    file = tmp_path / "tokens.yaml"
    hashes = {name: sha256(token.encode()).hexdigest() for name, token in tokens.items()}
    file.write_text("".join(f"- {{name: {name}, sha256: {hashes[name]}}}\n" for name in hashes))
    asked = {"token_file": str(file), "metrics_callers": ("ada",), "metrics_port": 0}
    async with running(EchoEngine(["echo"], "", 0), **asked) as server:
        seen = await meter(server)
        for token in tokens.values():
            async with calling("async", server.target, token=token) as client:
                await client.chat("secret words here")
        async with calling("async", server.target, token="wrong") as client:
            with pytest.raises(Error):
                async with client.stream("a") as stream:
                    await stream.wait()
        await seen.rises("talkwire_caller_chats_total", 1, caller="ada")
        await seen.rises("talkwire_caller_chats_total", 1, caller="other")
        await seen.rises("talkwire_caller_tokens_total", 3, caller="ada", kind="completion")
        refused = {"grpc_method": "ChatStream", "grpc_type": "server_stream"}
        code = "Unauthenticated"
        await seen.rises("grpc_server_handled_total", 1, **refused, grpc_code=code)
        page = await asyncio.to_thread(Page, url(server))

    assert "eve" not in page.labels("talkwire_caller_chats_total", "caller")
    assert "secret" not in page.text


def test_chats_are_counted_without_a_grpc_server() -> None:
    """What reads the journal needs no more than that, whatever carries the chats."""
    named = {"rpc": "Elsewhere", "code": "OK", "reason": ""}
    before = counted("talkwire_chats_total", **named)
    with Journal([ChatMetrics(())]).entry("Elsewhere", "id", "me", {}, None):
        pass

    assert counted("talkwire_chats_total", **named) == before + 1


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"metrics_callers": ("a",)}, "--metrics-callers needs --metrics-port"),
        ({"metrics_host": "0.0.0.0"}, "--metrics-host needs --metrics-port"),
        ({"metrics_host": "", "metrics_port": 0}, "--metrics-host must not be empty"),
        ({"metrics_callers": ("other",), "metrics_port": 0}, "--metrics-callers takes no other"),
        ({"metrics_port": 70_000}, "--metrics-port must be >= 0 and <= 65535, got 70000"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Settings(**settings)


async def test_a_page_that_others_reach_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    """It is a warning; on loopback there is none."""
    caplog.set_level(logging.WARNING)
    for host in ("127.0.0.1", "0.0.0.0"):
        engine = EchoEngine(["echo"], "", 0)
        async with running(engine, metrics_port=0, metrics_host=host):
            pass

    said = "on --metrics-host 0.0.0.0 other machines can read the metrics"
    assert [record.getMessage() for record in caplog.records] == [said]


def test_a_port_that_is_taken() -> None:
    """The server does not start, and says why in a line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "talkwire_server", "--engine=echo", "--port=0"]
        command += [f"--metrics-port={port}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    assert done.returncode == 1
    assert f"cannot serve metrics on 127.0.0.1 port {port}: Address already in use" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_flag_nothing_is_counted() -> None:
    """Then prometheus_client is not even imported."""
    program = (
        "import asyncio, sys\n"
        "from talkwire_server.echo import EchoEngine\n"
        "from talkwire_server.server import Server\n"
        "from talkwire_server.settings import Settings\n"
        "async def main():\n"
        "    Server(Settings(port=0), EchoEngine(['echo'], '', 0))\n"
        "    print('prometheus_client' in sys.modules)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
