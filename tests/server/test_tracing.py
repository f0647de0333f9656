"""Spans of chats, as a receiver of OpenTelemetry's gets them from real servers and clients."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import grpc
import pytest
from opentelemetry.trace import Tracer

from otlp import Collector, Received, collecting, tracing
from processes import launched, run
from support import calling, running
from talkwire import AsyncClient, Client, Error
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call, Delta
from talkwire_server.errors import EngineDead
from talkwire_server.journal import Journal
from talkwire_server.settings.tracing import trace_exporters
from talkwire_server.telemetry.tracing import Tracing

LONG = "word " * 2000
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    """Receives the spans of all tests here."""
    with collecting() as receiver:
        yield receiver


@pytest.fixture
def tracer(collector: Collector) -> Iterator[Tracer]:
    """Has this process trace itself for the length of a test."""
    with tracing(collector) as made:
        yield made


@pytest.fixture(scope="module")
def slow(collector: Collector) -> Iterator[str]:
    """The address of a server that takes 10 ms a word, and sends its spans."""
    with launched("--echo-delay=0.01", "--grace=0.1", **collector.environment) as server:
        yield server.target


@pytest.fixture(autouse=True)
def empty(collector: Collector) -> None:
    collector.clear()


def server_span(collector: Collector) -> Received:
    """Return the span of the one chat that a server had."""
    (span,) = collector.spans(1, lambda span: span.kind == "SERVER")
    return span


def only_client(collector: Collector) -> Received:
    """Return the span of the one chat that a client had, when the server's has come, too."""
    collector.spans(1, lambda span: span.kind == "SERVER")
    (span,) = collector.spans(1, lambda span: span.kind == "CLIENT")
    return span


def outcome(span: Received) -> tuple[str, str, str, str]:
    """Say how a span ended: OpenTelemetry's status, gRPC's, the error's type and the reason."""
    said = span.attributes
    code, error = said["rpc.response.status_code"], said.get("error.type", "")
    return span.status, code, error, said.get("talkwire.reason", "")


def test_the_last_spans_are_sent_before_a_sudden_end(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever closes the journal need not wait for OpenTelemetry's batch."""
    for name, value in (collector.environment | {"OTEL_BSP_SCHEDULE_DELAY": "60000"}).items():
        monkeypatch.setenv(name, value)
    journal = Journal([Tracing(["otlp"])])
    with journal.entry("Chat", "mine", "ada", {}, None):
        pass
    before = time.monotonic()
    journal.close()
    server_span(collector)

    assert time.monotonic() - before < 30


def test_spans_go_over_http_where_asked(collector: Collector) -> None:
    """As protobuf, to the path that OpenTelemetry names."""
    protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    with collector.over_http() as endpoint:
        there = collector.environment | protocol | {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
        with launched(**there) as server, Client(server.target) as client:
            client.chat("a")
            said = server_span(collector)

    assert said.name == "chat echo"


# What a span holds


async def test_a_server_s_span(kind: str, slow: str, collector: Collector) -> None:
    """It has the conventions' names for what was asked and answered, and no texts."""
    before = time.time()
    async with calling(kind, slow) as client:
        options = {"temperature": 0.5, "max_tokens": 9, "stop": ["zzz"], "seed": 3}
        async with client.stream("a b the-secret", request_id="mine", **options) as stream:
            answer = await stream.wait()
    span = server_span(collector)
    rpc = "ChatMultiplex" if "multiplexed" in kind else "ChatStream"

    assert (span.name, span.kind, span.parent_id) == ("chat echo", "SERVER", "")
    assert span.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": f"talkwire.v1.ChatService/{rpc}",
        "rpc.response.status_code": "OK",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "talkwire",
        "gen_ai.request.stream": True,
        "gen_ai.request.model": "echo",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 3,
        "gen_ai.response.id": "mine",
        "gen_ai.response.model": "echo",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": answer.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
    }
    assert span.resource["service.name"] == "talkwire"
    assert {"service.version", "service.instance.id"} <= {*span.resource}
    assert not re.search("secret|zzz", str(span.proto))
    first = span.events["first_token"]
    assert before < span.began <= span.events["admitted"] <= first < span.ended < time.time()
    assert first - span.began == pytest.approx(answer.timing.first_token, abs=0.1)


def test_the_unary_call_has_one_too(slow: str, collector: Collector) -> None:
    """It is no stream."""
    with Client(slow) as client:
        client.chat("a")
    said = server_span(collector).attributes

    assert said["rpc.method"] == "talkwire.v1.ChatService/Chat"
    assert "gen_ai.request.stream" not in said


# How it ends


async def test_a_refusal(kind: str, slow: str, collector: Collector) -> None:
    """It is the caller's fault: by the conventions no error of the server's; its reason is told."""
    async with calling(kind, slow) as client:
        with pytest.raises(Error):
            async with client.stream(model="the-secret", query="a"):
                pass
    span = server_span(collector)

    assert outcome(span) == ("UNSET", "NOT_FOUND", "", "MODEL_NOT_FOUND")
    assert span.name == "chat"
    assert "secret" not in str(span.proto)


async def test_a_caller_that_leaves(kind: str, slow: str, collector: Collector) -> None:
    """CANCELLED is told as what it is, neither OK nor the server's fault, and when it had begun."""
    async with calling(kind, slow) as client, client.stream(LONG) as stream:
        await anext(aiter(stream))
    span = server_span(collector)

    assert outcome(span) == ("UNSET", "CANCELLED", "", "")
    assert {*span.events} == {"admitted", "first_token"}
    assert "gen_ai.usage.output_tokens" not in span.attributes


async def test_a_deadline(kind: str, slow: str, collector: Collector) -> None:
    """DEADLINE_EXCEEDED is an error."""
    async with calling(kind, slow) as client:
        with pytest.raises(Error):
            async with client.stream(LONG, timeout=1) as stream:
                await stream.wait()
    code = "DEADLINE_EXCEEDED"

    assert outcome(server_span(collector)) == ("ERROR", code, code, "")


async def test_a_slow_reader(collector: Collector) -> None:
    """ABORTED as SLOW_READER, which is the client's affair."""
    options = (("grpc.http2.bdp_probe", 0),)
    large = " ".join(["x" * 10_000] * 300)
    with launched("--slow-reader-timeout=0.4", **collector.environment) as server:
        async with grpc.aio.insecure_channel(server.target, options=options) as channel:
            call = ChatServiceStub(channel).ChatStream(pb.ChatRequest(query=large))
            await anext(aiter(call))
            span = await asyncio.to_thread(server_span, collector)

    assert outcome(span) == ("UNSET", "ABORTED", "", "SLOW_READER")


@pytest.mark.parametrize("frontends", [1, 2])
def test_a_server_that_leaves(frontends: int, collector: Collector) -> None:
    """What it cuts ends as an error, and all spans are sent before the process ends."""
    flags = ("--echo-delay=0.01", "--grace=0.1", f"--frontends={frontends}")
    with (
        launched(*flags, OTEL_EXPORTER_OTLP_ENDPOINT=collector.target) as server,
        Client(server.target) as client,
        client.stream(LONG) as stream,
    ):
        next(stream)
        server.signal(signal.SIGTERM)
        with pytest.raises(Error):
            stream.wait()
        server.ends()
    span = server_span(collector)

    assert outcome(span) == ("ERROR", "UNAVAILABLE", "UNAVAILABLE", "SHUTTING_DOWN")


class Broken(EchoEngine):
    """Fails amid an answer."""

    def __init__(self, error: Exception) -> None:
        super().__init__(["echo"], "", 0)
        self.error = error

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Say a word, and fail."""
        yield call.first_delta()
        raise self.error


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [(KeyError(), "INTERNAL", "ENGINE_FAILURE"), (EngineDead(), "UNAVAILABLE", "ENGINE_DEAD")],
    ids=["failed", "dead"],
)
async def test_an_engine_that_fails(
    kind: str,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: str,
    reason: str,
) -> None:
    """It is the server's error."""
    for name, value in collector.environment.items():
        monkeypatch.setenv(name, value)
    exporters = trace_exporters(os.environ)
    async with (
        running(Broken(error), trace_exporters=exporters) as server,
        calling(kind, server.target) as client,
    ):
        with pytest.raises(Error):
            async with client.stream("a") as stream:
                await stream.wait()
        span = await asyncio.to_thread(server_span, collector)

    assert outcome(span) == ("ERROR", code, code, reason)


# Whose part it is


async def test_a_trace_goes_from_caller_to_server(
    kind: str, slow: str, collector: Collector, tracer: Tracer
) -> None:
    """The server's span is below the client's, that below what was at hand, each its own."""

    async def ask(client: Any, name: str) -> None:
        with tracer.start_as_current_span(name):
            async with client.stream(name) as stream:
                await stream.wait()

    async with calling(kind, slow) as client:
        await asyncio.gather(*(ask(client, name) for name in ("one", "two")))
    spans = {span.span_id: span for span in collector.spans(6)}
    chains = [
        (server, spans[server.parent_id], spans[spans[server.parent_id].parent_id])
        for server in spans.values()
        if server.kind == "SERVER"
    ]

    assert {above.name for _, _, above in chains} == {"one", "two"}
    for server, client_span, above in chains:
        assert client_span.kind == "CLIENT"
        assert client_span.resource["service.name"] == "program"
        assert server.trace_id == client_span.trace_id == above.trace_id
        assert client_span.began <= server.began
        host, _, port = slow.rpartition(":")
        assert (
            client_span.attributes.items()
            >= {
                "server.address": host,
                "server.port": int(port),
                "rpc.response.status_code": "OK",
                "gen_ai.usage.output_tokens": 1,
                "gen_ai.operation.name": "chat",
            }.items()
        )
        assert client_span.attributes["rpc.method"] == server.attributes["rpc.method"]


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"query": LONG}, ("ERROR", "CANCELLED", "CANCELLED", "")),
        ({"query": LONG, "timeout": 0.3}, ("ERROR", *["DEADLINE_EXCEEDED"] * 2, "")),
        ({"query": ""}, ("ERROR", *["INVALID_ARGUMENT"] * 2, "INVALID_FIELD")),
    ],
    ids=["left", "late", "refused"],
)
async def test_a_client_s_span_ends_as_its_caller_sees_it(
    kind: str,
    slow: str,
    collector: Collector,
    tracer: Tracer,
    options: dict[str, Any],
    end: tuple[str, ...],
) -> None:
    """To a client all but OK is an error; also where it left the answer itself."""
    async with calling(kind, slow) as client:
        try:
            async with client.stream(**options) as stream:
                await anext(aiter(stream))
                if "timeout" in options:
                    await stream.wait()
        except Error:
            pass
    span = only_client(collector)

    assert outcome(span) == end


async def test_an_answer_read_to_its_end_is_ok_wherever_its_block_ends(
    kind: str, slow: str, collector: Collector, tracer: Tracer
) -> None:
    """The span ends with the answer, not with the block."""
    async with calling(kind, slow) as client, client.stream("a b") as stream:
        await stream.wait()
        ended = time.time()
        await asyncio.to_thread(only_client, collector)
    span = only_client(collector)

    assert outcome(span) == ("UNSET", "OK", "", "")
    assert span.ended <= ended


def test_an_answer_that_goes_on_elsewhere_is_one_span(collector: Collector, tracer: Tracer) -> None:
    """With a server's span below it for each call that it took."""
    flags = ("--echo-delay=0.01", "--grace=0.1")
    with (
        launched(*flags, **collector.environment) as first,
        launched(*flags, **collector.environment) as second,
        Client([first.target, second.target], resume=True, balance="first") as client,
        client.stream("word " * 100) as stream,
    ):
        next(stream)
        first.signal(signal.SIGTERM)
        assert stream.wait().text == "word " * 100
        assert stream.resumed == 1
        tries = collector.spans(2, lambda span: span.kind == "SERVER")
        span = only_client(collector)

    assert outcome(span) == ("UNSET", "OK", "", "")
    assert [(one.parent_id, outcome(one)[1]) for one in tries] == [
        (span.span_id, "UNAVAILABLE"),
        (span.span_id, "OK"),
    ]
    assert span.attributes["server.address"] == f"{first.target},{second.target}"


class Front(chat_pb2_grpc.ChatServiceServicer):
    """Hands its calls on."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        return (await self.client.chat(request.query, within=context)).proto


@pytest.mark.parametrize("multiplex", [False, True])
async def test_a_call_within_another_is_part_of_its_trace(
    slow: str, collector: Collector, tracer: Tracer, multiplex: bool
) -> None:
    """Where the handler has no span of its own at hand, its caller's is above the client's."""
    backend = grpc.aio.server()
    async with AsyncClient(slow, multiplex=multiplex) as client:
        servicer = Front(client)  # type: ignore[abstract]  # one method is enough
        chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, backend)
        port = backend.add_insecure_port("127.0.0.1:0")
        await backend.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub: Any = ChatServiceStub(channel)
            await stub.Chat(pb.ChatRequest(query="a"), metadata=(("traceparent", PARENT),))
        await backend.stop(None)
    below, span = server_span(collector), only_client(collector)

    assert below.parent_id == span.span_id
    assert f"00-{span.trace_id}-{span.parent_id}-01" == PARENT
    assert below.trace_id == span.trace_id


@pytest.mark.parametrize(
    ("parent", "state", "good"),
    [
        (PARENT, "a=b", True),
        (PARENT, "x" * 513, True),
        ("cc" + PARENT[2:] + "-more", "", True),
        ("", "a=b", False),
        ("the-secret", "", False),
        (PARENT + "-more", "", False),
        ("ff" + PARENT[2:], "", False),
        (PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32), "", False),
        (PARENT.upper(), "", False),
    ],
)
@pytest.mark.parametrize("multiplexed", [False, True])
async def test_a_trace_that_breaks_the_rules_is_passed_over(
    slow: str, collector: Collector, multiplexed: bool, parent: str, state: str, good: bool
) -> None:
    """As W3C wants it: a span begins its own trace; no chat fails for it."""
    async with grpc.aio.insecure_channel(slow) as channel:
        stub: Any = ChatServiceStub(channel)
        request = pb.ChatRequest(query="a")
        if multiplexed:
            start = pb.ChatMultiplexRequest(call=1)
            start.start.request.CopyFrom(request)
            start.start.traceparent, start.start.tracestate = parent, state
            events = [e async for m in stub.ChatMultiplex(iter([start])) for e in m.events]
            assert events[-1].status.code == 0
        else:
            said = [("traceparent", parent), ("tracestate", state)]
            await stub.Chat(request, metadata=tuple(pair for pair in said if pair[1]))
    span = server_span(collector)

    _, trace_id, parent_id, _ = PARENT.split("-")
    assert ((span.trace_id, span.parent_id) == (trace_id, parent_id)) == good
    assert good or not span.parent_id
    assert span.proto.trace_state == ("a=b" if good and state == "a=b" else "")


# The log, and switches


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_log_names_the_span(form: str, collector: Collector) -> None:
    """So that one is found by the other."""
    with launched(f"--log-format={form}", **collector.environment) as server:
        target = re.findall(r"127\.0\.0\.1:\d+", server.logs("serving echo"))[0]
        with Client(target) as client:
            client.chat("a", metadata={"traceparent": PARENT, "tracestate": "the secret"})
        line = server.logs("chat ended")
        span = server_span(collector)
    if form == "json":
        said = json.loads(line)
        assert (said["trace_id"], said["span_id"]) == (span.trace_id, span.span_id)
    else:
        assert f" trace_id={span.trace_id} span_id={span.span_id} " in line
    assert "secret" not in line


def test_what_is_not_sampled_is_not_sent(collector: Collector) -> None:
    """OpenTelemetry's variables are heeded: sampler, name and attributes of the service."""
    said = {
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_SERVICE_NAME": "mine",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    with launched(**collector.environment, **said) as server, Client(server.target) as client:
        client.chat("a")
        client.chat("a", metadata={"traceparent": PARENT})
        span = server_span(collector)
        server.signal(signal.SIGTERM)
        server.ends()

    assert len(collector.spans(1)) == 1
    assert span.trace_id == PARENT.split("-")[1]
    assert span.resource["service.name"] == "mine"
    assert span.resource["deployment.environment.name"] == "test"


@pytest.mark.parametrize(
    "variables",
    [{}, {"OTEL_TRACES_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}],
    ids=["unset", "none", "disabled"],
)
def test_without_traces_nothing_of_opentelemetry_is_imported(variables: dict[str, str]) -> None:
    """Neither by a server that answers, nor by a client that asks."""
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"} if variables else {}
    program = f"""
import asyncio, os, sys
os.environ.update({variables | endpoint})
import talkwire
from talkwire_server import echo, options
from talkwire_server.server import Server

async def main():
    settings = options.parse(["--engine=echo", "--port=0"], os.environ)
    server = Server(settings, echo.load(settings))
    await server.listen()
    await server.load()
    async with talkwire.AsyncClient(server.address) as client:
        print(await client.chat("a b"))
    await server.close()

asyncio.run(main())
print([name for name in sys.modules if name.startswith("opentelemetry")])
"""
    done = run(sys.executable, "-W", "error", "-c", program)

    assert (done.stderr, done.stdout) == ("", "a b\n[]\n")


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin", "its exporter zipkin is not installed"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "soon", "cannot export traces"),
    ],
)
def test_traces_that_cannot_be_had(variable: str, value: str, said: str) -> None:
    """A server that is told to trace does not start without; one line says why."""
    variables = {"OTEL_TRACES_EXPORTER": "otlp", variable: value}
    with launched(**variables) as server:
        status, log = server.ends()

    assert status != 0
    assert len([line for line in log.splitlines() if said in line]) == 1
