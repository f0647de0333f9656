"""Several servers and one client: who gets a call, and that none is lost."""

import asyncio
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from itertools import count
from typing import Any

import grpc
import pytest
from cryptography import x509

import talkwire
from certificates import Authority
from multiplexing import Multiplexing
from processes import ServerProcess, launched
from support import calling, running, sees
from talkwire import _replicas_async, _replicas_sync
from talkwire._balance import session_of
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.echo import EchoEngine

LONG = "word " * 500
BEGINS = [f"Conversation {i}" for i in range(80)]  # so many that each server has some


@pytest.fixture(scope="module")
def three() -> Iterator[list[ServerProcess]]:
    """Servers that serve models of their names, a word in 20 ms."""
    with ExitStack() as stack:
        yield [stack.enter_context(_server(name)) for name in "abc"]


def _server(name: str, *flags: str) -> Any:
    return launched(f"--served-model-name={name}", "--echo-delay=0.02", *flags)


@asynccontextmanager
async def client(kind: str, *servers: ServerProcess, **options: Any) -> AsyncIterator[Any]:
    """Connect a client to all of some servers."""
    targets = await asyncio.to_thread(lambda: [server.target for server in servers])
    async with calling(kind, targets, **options) as caller:
        await sees(caller, len(servers))
        yield caller


async def answered(caller: Any, query: str = "hi", **options: Any) -> str:
    """Stream an answer; return which server gave it."""
    async with caller.stream(query, **options) as stream:
        return str((await stream.wait()).model)


@asynccontextmanager
async def streams(caller: Any, number: int, **options: Any) -> AsyncIterator[list[Any]]:
    """Begin long answers."""
    async with AsyncExitStack() as stack:
        entering = stack.enter_async_context
        yield [await entering(caller.stream(LONG, **options)) for _ in range(number)]


async def first_of(stream: Any) -> str:
    """Return which server a stream is from."""
    return str((await anext(aiter(stream))).proto.model)


# Who gets a call


async def test_calls_take_turns(kind: str, three: list[ServerProcess]) -> None:
    """Streams and whole answers alike, one after the other; each has a third."""
    async with client(kind, *three) as caller:
        streamed = [await answered(caller) for _ in range(9)]
        whole = [(await caller.chat("hi")).model for _ in range(9)]

    assert Counter(streamed) == Counter(whole) == {"a": 3, "b": 3, "c": 3}


async def test_the_idle_server_is_preferred(kind: str, three: list[ServerProcess]) -> None:
    """While slow streams run at two, all others go to the third, and when they end, to all."""
    async with client(kind, *three, balance="least_requests") as caller:
        async with streams(caller, 6) as begun:
            busy = [await first_of(stream) for stream in begun]
            assert Counter(busy) == {"a": 2, "b": 2, "c": 2}
            for stream, name in zip(begun, busy, strict=True):
                if name == "c":
                    stream.cancel()
                    with pytest.raises(talkwire.Cancelled):
                        await stream.wait()
            assert {await answered(caller) for _ in range(4)} == {"c"}
            assert {(await caller.chat("hi")).model for _ in range(4)} == {"c"}
        assert {await answered(caller) for _ in range(3)} == {"a", "b", "c"}


async def talk(caller: Any, begin: str, **options: Any) -> list[str]:
    """Have a conversation of three turns; return which server gave each answer."""
    conversation = caller.client.conversation(system="Be brief.", **options)
    send = conversation.send
    if not asyncio.iscoroutinefunction(send):
        send = partial(asyncio.to_thread, send)
    return [(await send(query)).model for query in (begin, "and?", "then?")]


async def talks(caller: Any) -> dict[str, list[str]]:
    """Have many at once."""
    said = await asyncio.gather(*(talk(caller, begin) for begin in BEGINS))
    return dict(zip(BEGINS, said, strict=True))


async def test_a_conversation_stays(kind: str, three: list[ServerProcess]) -> None:
    """Each at one server, and all of them at all three; another client sends it there, too."""
    async with client(kind, *three) as caller:
        by_turn = await talks(caller)
    assert all(len({*models}) == 1 for models in by_turn.values())
    assert {models[0] for models in by_turn.values()} == {"a", "b", "c"}

    other = "sync" if kind.startswith("async") else "async"
    async with client(other, *reversed(three), balance="least_requests") as caller:
        for begin in BEGINS[:3]:
            assert await talk(caller, begin) == by_turn[begin]
        said = [{"role": "user", "text": BEGINS[0]}, {"role": "assistant", "text": "x"}]
        asked: Any = {"messages": said, "system": "Be brief.", "sticky": True}
        assert (await caller.chat("y", **asked)).model == by_turn[BEGINS[0]][0]
        assert await answered(caller, "y", **asked) == by_turn[BEGINS[0]][0]


async def test_a_session_can_have_a_name_or_none(kind: str, three: list[ServerProcess]) -> None:
    """Calls of one name stay together, whatever they say; what shall not be sticky is not."""
    async with client(kind, *three) as caller:
        assert len({await answered(caller, f"q{i}", sticky="ada") for i in range(6)}) == 1
        assert len({(await caller.chat(f"q{i}", sticky="ada")).model for i in range(6)}) == 1
        asking = (answered(caller, sticky=begin) for begin in BEGINS)
        assert {*await asyncio.gather(*asking)} == {"a", "b", "c"}
        assert len({*await talk(caller, "x", sticky=False)}) == 3
        with pytest.raises(ValueError, match="printable ASCII"):
            await caller.chat("x", sticky="Zoë")


async def test_only_the_conversations_of_a_lost_server_move(
    kind: str, three: list[ServerProcess]
) -> None:
    """Each of its own to another one, and all others stay where they are."""
    with _server("d") as lost:
        async with client(kind, *three, lost) as caller:
            before = await talks(caller)
            lost.signal(signal.SIGKILL)
            after = await talks(caller)

    assert ["d"] * 3 in before.values()
    for begin, models in after.items():
        assert len({*models}) == 1
        assert models == before[begin] if before[begin][0] != "d" else models[0] in "abc"


# None is lost


async def test_a_full_server_gives_its_sessions_to_the_next(
    kind: str, three: list[ServerProcess]
) -> None:
    """At once, while it is full; then they are back."""
    with _server("d", "--max-running-requests=1", "--max-queued-requests=0") as small:
        async with client(kind, *three[:2], small) as caller:
            mine = await sessions_at(caller, "d", 3)
            async with caller.stream(LONG, sticky=mine[0]) as held:
                assert await first_of(held) == "d"
                elsewhere = [await answered(caller, sticky=one) for one in mine]
                whole = [await place_of(caller, one) for one in mine]
            assert {*elsewhere, *whole} <= {"a", "b"}
            assert [await answered(caller, sticky=one) for one in mine] == ["d"] * 3


async def place_of(caller: Any, session: str) -> str:
    """Return which server has a session."""
    return str((await caller.chat("hi", sticky=session)).model)


async def test_where_all_are_full_it_is_tried_again(kind: str) -> None:
    """As long as the servers ask to wait; who forbids retries is told at once."""
    flags: Any = {"max_running_requests": 1, "max_queued_requests": 0}
    async with AsyncExitStack() as stack:
        two = [
            await stack.enter_async_context(running(EchoEngine(["echo"], "", 0.02), **flags))
            for _ in range(2)
        ]
        targets = [one.target for one in two]
        many = talkwire.Retry(attempts=20)
        caller = await stack.enter_async_context(calling(kind, targets, retry=many))
        never = await stack.enter_async_context(calling(kind, targets, retry=None))
        for one in (caller, never):
            await sees(one, 2)
        async with streams(caller, 2) as begun:
            with pytest.raises(talkwire.Overloaded):
                await never.chat("hi")
            with pytest.raises(talkwire.Overloaded):
                await answered(never)
            asking = [asyncio.create_task(answered(caller)), asyncio.create_task(caller.chat("hi"))]
            await asyncio.sleep(0.1)
            for stream in begun:
                stream.cancel()
            await asyncio.gather(*asking)


async def test_a_draining_server_gets_no_more(kind: str, three: list[ServerProcess]) -> None:
    """From the moment its health says so, and no call fails meanwhile; what it has, ends there."""
    with _server("d", "--lame-duck=30") as leaving:
        async with client(kind, *three[:2], leaving) as caller:
            (session,) = await sessions_at(caller, "d", 1)
            async with caller.stream(LONG, sticky=session) as stream:
                assert await first_of(stream) == "d"
                leaving.signal(signal.SIGTERM)
                while len(caller.client._replicas.serving) == 3:
                    await answered(caller)
                asked = [await answered(caller) for _ in range(8)]
                asked += [await answered(caller, sticky=session) for _ in range(2)]
                assert await caller.call("abort", stream.id)  # it is still heard
                assert (await stream.wait()).finish_reason == "aborted"

    assert {*asked} == {"a", "b"}


async def sessions_at(caller: Any, name: str, number: int) -> list[str]:
    """Find sessions that a server has."""
    found: list[str] = []
    for i in count():
        if await place_of(caller, str(i)) == name:
            found.append(str(i))
        if len(found) == number:
            break
    return found


async def test_a_server_that_comes_back_is_used(kind: str, three: list[ServerProcess]) -> None:
    """Calls go to those that serve, and to one more when its health says that it does."""
    async with (
        running(EchoEngine(["x"], "", 0)) as one,
        running(EchoEngine(["y"], "", 0)) as two,
        calling(kind, [one.target, two.target]) as caller,
    ):
        await sees(caller, 2)
        await two.server.unload()
        await sees(caller, 1)
        assert {(await caller.chat("hi")).model for _ in range(4)} == {"x"}
        await two.server.load()
        await sees(caller, 2)
        assert {(await caller.chat("hi")).model for _ in range(4)} == {"x", "y"}


async def test_streams_go_on_at_another(kind: str, three: list[ServerProcess]) -> None:
    """Of sticky ones, too: those on a server that is killed go on, and miss nothing."""
    with _server("d") as lost:
        async with client(kind, three[0], lost, resume=True) as caller, AsyncExitStack() as stack:
            words = " ".join(map(str, range(200)))
            sessions = [one for name in "ad" for one in await sessions_at(caller, name, number=3)]
            begun = [
                await stack.enter_async_context(caller.stream(words, sticky=one))
                for one in sessions
            ]
            at = [await first_of(stream) for stream in begun]
            lost.signal(signal.SIGKILL)
            answers = await asyncio.gather(*(stream.wait() for stream in begun))

    assert at == [*"aaaddd"]
    assert [answer.text for answer in answers] == [words] * 6
    assert [stream.resumed for stream in begun] == [int(name == "d") for name in at]


# What goes to all


async def test_abort_reaches_the_server_that_has_the_call(
    kind: str, three: list[ServerProcess]
) -> None:
    """By another client, by the stream itself, and though a server is gone; if none has it, so."""
    with _server("d") as lost:
        async with client(kind, *three, lost) as caller, client("async", *three) as other:
            lost.signal(signal.SIGKILL)
            async with streams(caller, 6) as begun:
                at = {await first_of(stream) for stream in begun}
                for stream in begun[:3]:
                    assert await other.call("abort", stream.id)
                assert [(await stream.wait()).finish_reason for stream in begun[:3]] == (
                    ["aborted"] * 3
                )
                stopped = await asyncio.gather(*(stream.stop() for stream in begun[3:]))
            assert not await caller.call("abort", "nothing")

    assert at == {"a", "b", "c"}
    assert {answer.finish_reason for answer in stopped} == {"aborted"}


async def test_none_that_can_be_reached(kind: str) -> None:
    """Then it is said why, by all that asks; who does not wait is told at once."""
    targets = ["127.0.0.1:1", "127.0.0.1:2"]
    async with calling(kind, targets, connect_timeout=0.5) as caller:
        with pytest.raises(talkwire.ConnectError, match=r"1:1,127.* within 0.5 s: .*refused"):
            await caller.chat("x")
        with pytest.raises(talkwire.ConnectError, match="refused"):
            await caller.call("abort", "x")
        assert not await caller.call("ready")
    async with calling(kind, targets, wait_for_ready=False) as caller:
        with pytest.raises(talkwire.ConnectError, match="refused"):
            await caller.chat("x")


async def test_all_else_takes_turns_too(kind: str, three: list[ServerProcess]) -> None:
    """What a client asks besides chats; its stub and channel are of one that serves."""
    async with client(kind, *three) as caller:
        assert len({caller.client.channel for _ in range(3)}) == 3
        assert len({caller.client.stub for _ in range(3)}) == 3
        assert {(await caller.call("model")).id for _ in range(3)} == {"a", "b", "c"}
        assert (await caller.call("count_tokens", "a b c")).prompt_tokens
        assert {one.id for one in await caller.call("models")} <= {"a", "b", "c"}


class Plain(Multiplexing):
    """Has no health, and notes the sessions that it is told."""

    def __init__(self) -> None:
        self.sessions: list[Any] = []

    def _note(self, context: Any) -> None:
        self.sessions.append(dict(context.invocation_metadata()).get("session_id"))

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        self._note(context)
        return pb.ChatResponse(model="plain")

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        self._note(context)
        yield pb.ChatStreamResponse(id="i", model="plain", usage=pb.Usage())


@asynccontextmanager
async def plain() -> AsyncIterator[tuple[Plain, str]]:
    service, server = Plain(), grpc.aio.server()  # type: ignore[abstract]  # two methods are enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_no_health_is_no_illness(kind: str) -> None:
    """A server that is there, and tells nothing of its health, is used."""
    async with plain() as (_, target), calling(kind, [target, "127.0.0.1:1"]) as caller:
        assert {await answered(caller) for _ in range(3)} == {"plain"}


async def test_a_proxy_is_told_the_session(kind: str) -> None:
    """Of each call that has one; streams that share a call go one way, and tell none."""
    async with plain() as (service, target), calling(kind, target) as caller:
        await talk(caller, "hi")
        await caller.chat("hi", sticky="mine")
        await caller.chat("hi")
        named = session_of(caller.client.request("hi", system="Be brief."))
        assert service.sessions == [named] * 3 + ["mine", None]
        service.sessions.clear()
        await answered(caller, sticky="mine")
        assert service.sessions == [None if "multiplexed" in kind else "mine"]


# A name


async def test_a_name_stands_for_its_addresses(kind: str) -> None:
    """All of those that serve are used: here one of two, as a host may have IPv4 and IPv6."""
    async with running(EchoEngine(["echo"], "", 0)) as server:
        port = server.target.rpartition(":")[2]
        async with calling(kind, f"dns:///localhost:{port}") as caller:
            assert {(await caller.chat("hi")).model for _ in range(4)} == {"echo"}
            assert await caller.call("ready")
            assert server.target in [one.address for one in caller.client._replicas.places]


async def test_a_name_that_is_none(kind: str) -> None:
    """The failure says so."""
    async with calling(kind, "dns:///nowhere.invalid:1", connect_timeout=0.5) as caller:
        for asking in (caller.chat("x"), caller.call("abort", "x")):
            with pytest.raises(talkwire.ConnectError, match=r"nowhere\.invalid"):
                await asking


async def test_certificates_that_cannot_be_read(kind: str) -> None:
    """That is said at once, as of one server."""
    files = talkwire.TLS("missing.pem")
    async with calling(kind, ["127.0.0.1:1", "127.0.0.1:2"], tls=files) as caller:
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await caller.chat("x")


async def test_a_certificate_of_the_name_is_enough(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It need not be for the addresses; one for another name is not trusted."""
    authority = Authority(tmp_path_factory.mktemp("tls"), "ours")
    for name, trusted in (("localhost", True), ("other", False)):
        pair = authority.pair("server", (x509.DNSName(name),))
        files = {"tls_cert_file": pair.cert_file, "tls_key_file": pair.key_file}
        async with running(EchoEngine(["echo"], "", 0), **files) as server:
            port = server.target.rpartition(":")[2]
            tls = talkwire.TLS(authority.file)
            target = f"dns:///localhost:{port}"
            async with calling(kind, target, tls=tls, connect_timeout=2) as caller:
                assert await caller.call("ready", 2) == trusted


async def test_a_name_gets_other_addresses(
    kind: str, three: list[ServerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New ones get calls, old ones none, but end what they have; then they are let go.

    A resolver that changes its mind is the one thing here that is not real.
    """
    for module in (_replicas_async, _replicas_sync):
        monkeypatch.setattr(module, "LOOKUP", 0.05)
    known = [server.target for server in three[:2]]

    def found(*_: Any, **__: Any) -> list[Any]:
        pairs = (target.rsplit(":", 1) for target in known)
        return [(2, 1, 6, "", (host, int(port))) for host, port in pairs]

    async with calling(kind, "dns:///name.invalid:1") as caller:
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", found)
            await sees(caller, 2)
            assert {await answered(caller) for _ in range(4)} == {"a", "b"}
            (session,) = await sessions_at(caller, "a", 1)
            async with caller.stream("word " * 50, sticky=session) as stream:
                assert await first_of(stream) == "a"
                known[0] = three[2].target
                watches = caller.client._replicas._watches
                while len(watches) != 3:  # noqa: ASYNC110  # it tells nobody
                    await asyncio.sleep(0.01)
                await sees(caller, 2)
                assert {await answered(caller) for _ in range(4)} == {"b", "c"}
                assert (await stream.wait()).text == "word " * 50
            async with asyncio.timeout(60):
                while len(watches) != 2:  # noqa: ASYNC110  # it tells nobody
                    await asyncio.sleep(0.01)
            assert {await answered(caller) for _ in range(4)} == {"b", "c"}
