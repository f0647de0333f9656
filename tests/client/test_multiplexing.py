"""Streams that share calls: which call a stream takes, and that none feels the others."""

import asyncio
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest

import talkwire
from credentials import TokenFile
from multiplexing import Multiplexing
from processes import launched
from support import RunningServer, calling, running, sees
from talkwire import Client, Retry
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.echo import EchoEngine
from talkwire_server.errors import EngineDead
from talkwire_server.server import Server

LONG = "word " * 500


@pytest.fixture(params=["async multiplexed", "sync multiplexed"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients."""
    return str(request.param)


def carriers(server: Server) -> int:
    """Return how many calls a server has open."""
    return len(server._open_calls._calls)


async def until(server: Server, number: int) -> None:
    """Wait until a server has so many calls open."""
    async with asyncio.timeout(10):
        while carriers(server) != number:  # noqa: ASYNC110  # it has no event for it
            await asyncio.sleep(0.005)


async def said(caller: Any, query: str = "a b c", **options: Any) -> str:
    """Stream an answer; return its text."""
    async with caller.stream(query, **options) as stream:
        return str((await stream.wait()).text)


@asynccontextmanager
async def streams(caller: Any, number: int, **options: Any) -> AsyncIterator[list[Any]]:
    """Begin long answers."""
    async with AsyncExitStack() as stack:
        entering = stack.enter_async_context
        yield [await entering(caller.stream(LONG, **options)) for _ in range(number)]


@asynccontextmanager
async def seen(caller: Any, number: int) -> AsyncIterator[None]:
    """Wait until a client sees so many servers."""
    await sees(caller, number)
    yield


async def test_streams_share_one_call(slow_client: Any, slow_echo: RunningServer) -> None:
    """However many run; the call stays for the next ones, and ends with the client."""
    async with streams(slow_client, 4):
        assert carriers(slow_echo.server) == 1
    assert await said(slow_client) == "a b c"
    assert carriers(slow_echo.server) == 1


async def test_or_so_many(kind: str, slow_echo: RunningServer) -> None:
    """`multiplex=2`: a second call when the first is in use, and no third."""
    await until(slow_echo.server, 0)
    async with calling(kind, slow_echo.target, multiplex=2) as caller:
        assert [await said(caller) for _ in range(3)] == ["a b c"] * 3
        assert carriers(slow_echo.server) == 1
        async with streams(caller, 5):
            assert carriers(slow_echo.server) == 2
    await until(slow_echo.server, 0)


async def test_other_metadata_takes_another_call(kind: str, slow_echo: RunningServer) -> None:
    """A call's metadata is what the server got with it; what nobody uses any more is closed."""
    await until(slow_echo.server, 0)
    async with calling(kind, slow_echo.target) as caller:
        async with streams(caller, 2), streams(caller, 2, metadata={"x-of": "me"}):
            assert carriers(slow_echo.server) == 2
        async with asyncio.timeout(10):
            while carriers(slow_echo.server) != 1:
                assert await said(caller) == "a b c"


async def test_another_trace_does_not(kind: str, slow_echo: RunningServer) -> None:
    """Each incoming call has its own, and would take a call for each answer within."""
    await until(slow_echo.server, 0)
    async with calling(kind, slow_echo.target) as caller:
        traces = [{"traceparent": str(n), "tracestate": f"n={n}"} for n in range(2)]
        async with streams(caller, 2, metadata=traces[0]), streams(caller, 2, metadata=traces[1]):
            assert carriers(slow_echo.server) == 1


async def test_a_token_may_change(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is asked for anew for each stream, and one of before is used no more."""
    file = TokenFile(tmp_path_factory.mktemp("tokens") / "tokens")
    tokens = [file.add("ada"), file.add("bob")]
    async with (
        running(EchoEngine(["echo"], "", 0), token_file=str(file.path)) as server,
        calling(kind, server.target, token=lambda: tokens[0]) as caller,
    ):
        assert await said(caller) == "a b c"
        del tokens[0]
        assert await said(caller) == "a b c"
        await until(server.server, 1)
        tokens[0] = "wrong"
        with pytest.raises(talkwire.Unauthenticated):
            await said(caller)


async def test_a_call_that_broke_is_made_anew(kind: str) -> None:
    """Its streams fail with what ended it, and keep what came; the next ones find another."""
    async with (
        running(EchoEngine(["echo"], "", 0.02)) as server,
        calling(kind, server.target) as caller,
    ):
        async with streams(caller, 2) as broken:
            for stream in broken:
                await anext(aiter(stream))
            await server.server._open_calls.cut(EngineDead())
            for stream in broken:
                with pytest.raises(talkwire.Unavailable) as caught:
                    await stream.wait()
                assert caught.value.reason == "ENGINE_DEAD"
                assert caught.value.partial
                assert caught.value.partial.text.startswith("word")
        assert await said(caller) == "a b c"


async def test_a_leaving_server_takes_no_more(kind: str) -> None:
    """What it lets in no more goes elsewhere, while what it has goes on to the end."""
    async with (
        running(EchoEngine(["echo"], "", 0.02), lame_duck=0) as leaving,
        running(EchoEngine(["echo"], "", 0)) as other,
    ):
        targets = [leaving.target, other.target]
        async with (
            calling(kind, targets, balance="first") as caller,
            seen(caller, 2),
            caller.stream("word " * 50) as stream,
        ):
            assert leaving.engine.unfinished == 1
            draining = asyncio.create_task(leaving.server.drain())
            await asyncio.sleep(0.1)
            assert await said(caller) == "a b c"
            assert (await stream.wait()).text == "word " * 50
            await draining


async def test_each_server_has_as_many_calls(kind: str) -> None:
    """`multiplex=2` of two servers has two calls at each, as soon as there are streams for them."""
    async with (
        running(EchoEngine(["echo"], "", 0.02)) as a,
        running(EchoEngine(["echo"], "", 0.02)) as b,
        calling(kind, [a.target, b.target], multiplex=2, balance="least_requests") as caller,
        seen(caller, 2),
        streams(caller, 8),
    ):
        assert (carriers(a.server), carriers(b.server)) == (2, 2)


@asynccontextmanager
async def serving(service: chat_pb2_grpc.ChatServiceServicer) -> AsyncIterator[str]:
    """Serve for the length of the block; yield the address."""
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


class Counting(Multiplexing):
    """Does as the query says, and notes the numbers of calls."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        if request.query == "refuse":
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no")
        if request.query == "full":
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "not now")
        await context.send_initial_metadata((("x-request-id", "1"),))
        yield pb.ChatStreamResponse(text="a")
        if request.query == "hold":
            await asyncio.sleep(60)

    async def _answer(self, request: pb.ChatMultiplexRequest, *rest: Any) -> None:
        self.numbers.append(request.call)
        await super()._answer(request, *rest)


@pytest.fixture
async def counting() -> AsyncIterator[tuple[Counting, str]]:
    """A server that counts, and its address."""
    service = Counting()  # type: ignore[abstract]
    async with serving(service) as target:
        yield service, target


async def test_numbers_are_used_again(kind: str, counting: tuple[Counting, str]) -> None:
    """So they stay small, and events with them; two that run at once have two."""
    service, target = counting
    async with calling(kind, target) as caller:
        for _ in range(3):
            await said(caller)
        async with caller.stream("hold"):
            await said(caller)

    assert service.numbers == [1, 1, 1, 1, 2]


async def test_a_cancelled_call_s_number_too(kind: str, counting: tuple[Counting, str]) -> None:
    """As soon as its status came, which a cancelled one has like any."""
    service, target = counting
    async with calling(kind, target) as caller:
        async with caller.stream("hold"):
            pass
        async with asyncio.timeout(10):
            for more in count(1):  # so many at once that they need it
                await asyncio.gather(*(said(caller) for _ in range(more)))
                if service.numbers.count(1) > 1:
                    break
    assert service.numbers.count(1) > 1


@pytest.mark.parametrize("attempts", [1, 2, 4])
async def test_refused_calls_are_tried_again(
    kind: str, counting: tuple[Counting, str], attempts: int
) -> None:
    """As often as `Retry` says, until most fail."""
    service, target = counting
    retry = Retry(attempts=attempts, initial=0.01, maximum=0.01)
    async with calling(kind, target, retry=retry) as caller:
        for _ in range(25):
            with pytest.raises(talkwire.ConnectError):
                await said(caller, "refuse")
        tries = len(service.numbers)
        assert await said(caller) == "a"

    # The budget is 100, of which half must be left.
    assert tries == {1: 25, 2: 50, 4: 49 + 13}[attempts]


async def test_a_full_server_is_asked_again_when_it_says(kind: str) -> None:
    """QUEUE_FULL has a delay, which stands in place of the client's own."""
    engine = EchoEngine(["echo"], "", 0.05)
    limits = {"max_running_requests": 1, "max_queued_requests": 0}
    async with (
        running(engine, **limits) as server,
        calling(kind, server.target) as caller,
        calling(kind, server.target, retry=None) as once,
        caller.stream(LONG, request_id="first") as first,
    ):
        with pytest.raises(talkwire.Overloaded) as caught:
            await said(once)
        assert caught.value.reason == "QUEUE_FULL"
        assert caught.value.retry_after
        second = asyncio.create_task(said(caller))
        await asyncio.sleep(0.05)
        await first.stop()
        assert await second == "a b c"


async def test_a_cancel_in_a_pause_is_one_call_s(kind: str, counting: tuple[Counting, str]) -> None:
    """A number that another call has by then is that call's."""
    service, target = counting
    retry = Retry(initial=60, maximum=60)
    async with calling(kind, target, retry=retry) as caller:
        waits = caller.client.stream("full")
        if kind.startswith("async"):
            entering = asyncio.create_task(waits.__aenter__())
        else:
            entering = asyncio.create_task(asyncio.to_thread(waits.__enter__))
        while not service.numbers:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        async with caller.stream("hold") as stream:
            waits.cancel()
            with pytest.raises(talkwire.Cancelled):
                await entering
            await anext(aiter(stream))
            await asyncio.sleep(0.1)
            stream.cancel()
            with pytest.raises(talkwire.Cancelled):
                await stream.wait()


async def test_a_cancel_ends_one(slow_client: Any, slow_echo: RunningServer) -> None:
    """The others are answered to the end."""
    async with streams(slow_client, 3) as (first, *_), slow_client.stream("word " * 20) as other:
        first.cancel()
        with pytest.raises(talkwire.Cancelled):
            await first.wait()
        assert (await other.wait()).text == "word " * 20


async def test_who_reads_slowly_stops_nobody(client: Any) -> None:
    """What comes for a stream that is not read waits in this process; nothing of it is lost."""
    text = "word " * 5000
    async with client.stream(text) as unread:
        assert [await said(client, text) for _ in range(3)] == [text] * 3
        assert (await unread.wait()).text == text


class Large(chat_pb2_grpc.ChatServiceServicer):
    """Has little to say to the first call, in messages that have much for one that has ended."""

    async def ChatMultiplex(
        self, requests: AsyncIterator[pb.ChatMultiplexRequest], context: Any
    ) -> AsyncIterator[pb.ChatMultiplexResponse]:
        call = (await anext(aiter(requests))).call
        for _ in range(100):
            message = pb.ChatMultiplexResponse()
            message.events.add(call=call).response.text = "a"
            message.events.add(call=call + 1).response.text = "x" * (1 << 20)
            yield message
        last = pb.ChatMultiplexResponse()
        last.events.add(call=call).status.SetInParent()
        yield last


def megabytes() -> float:
    """Return how much memory this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


async def test_a_chunk_keeps_no_other_s(kind: str) -> None:
    """Whatever else came in the messages that its deltas came in."""
    service = Large()  # type: ignore[abstract]
    async with (
        serving(service) as target,
        calling(kind, target) as caller,
        caller.stream("x") as stream,
    ):
        before = megabytes()
        chunks = [chunk async for chunk in stream]
        assert megabytes() - before < 50

    assert "".join(map(str, chunks)) == "a" * 100


async def test_a_request_that_is_too_large_is_refused_alone(client: Any) -> None:
    """It would end the call it shared, so it has one of its own."""
    async with client.stream("word " * 5000) as other:
        with pytest.raises(talkwire.InvalidRequest, match="larger than max"):
            await said(client, "x" * (17 << 20))
        assert (await other.wait()).text == "word " * 5000


async def test_metadata_may_name_a_stream(client: Any) -> None:
    """As it names any call, unless it is malformed."""
    for wish in ("m-1", "no good"):
        async with client.stream("x", metadata={"x-request-id": wish}) as stream:
            assert (stream.id == "m-1") == (wish == "m-1")
            assert (await stream.wait()).text == "x"


async def test_deadlines_hold_where_the_server_stands_still(kind: str) -> None:
    """Before the first text and amid the answer; when the server goes on, so do the others."""
    with launched("--echo-delay=0.02") as server:
        async with (
            calling(kind, server.target) as caller,
            streams(caller, 1, timeout=1) as (late,),
            caller.stream("b " * 60) as other,
        ):
            await anext(aiter(late))
            server.signal(signal.SIGSTOP)
            with pytest.raises(talkwire.Timeout) as caught:
                await late.wait()
            with pytest.raises(talkwire.Timeout):
                await said(caller, timeout=0.3)
            server.signal(signal.SIGCONT)
            assert (await other.wait()).text == "b " * 60
    assert caught.value.partial
    assert caught.value.partial.text.startswith("word")


def test_threads_share_a_client(target: str) -> None:
    """Hundreds of answers to several threads, of which each gets its own, and ends some early."""
    failed: list[Any] = []

    def ask(client: Client, thread: int, numbers: Iterator[int]) -> None:
        for number in numbers:
            if number >= 60:
                return
            text = f"{thread} {number} " * (number % 7 + 1)
            with client.stream(text) as stream:
                if number % 5 == 0:
                    next(stream)
                    stream.cancel()
                elif stream.wait().text != text:
                    failed.append((thread, number, stream.answer.text))

    with Client(target, multiplex=2) as client:
        threads = [Thread(target=ask, args=(client, n, count())) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
    assert not failed
