"""ChatMultiplex as a bare stub sees it: many calls over one stream, each on its own."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2

from credentials import TokenFile, bearer
from support import RunningServer, make, running, trailers
from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call, Delta
from talkwire_server.errors import CallError
from talkwire_server.multiplex import Multiplex
from talkwire_server.outbox import MOST_BYTES, Outbox, parts


def start(call: int, query: str = "a b c", **more: Any) -> pb.ChatMultiplexRequest:
    """Ask in a call; `more` are fields of the request, but for `timeout`."""
    timeout = {"timeout": timedelta(seconds=more.pop("timeout"))} if "timeout" in more else {}
    action = {"request": {"query": query, **more}, **timeout}
    return make(pb.ChatMultiplexRequest, call=call, start=action)


def cancel(call: int) -> pb.ChatMultiplexRequest:
    return make(pb.ChatMultiplexRequest, call=call, cancel={})


class Peer:
    """The other end of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.messages: list[pb.ChatMultiplexResponse] = []
        self.admitted: dict[int, str] = {}
        self.deltas: dict[int, list[Delta]] = defaultdict(list)
        self.status: dict[int, pb.CallStatus] = {}

    async def send(self, *requests: pb.ChatMultiplexRequest) -> None:
        for request in requests:
            await self.call.write(request)

    async def read(self) -> bool:
        """Take one message; False at the end of the stream."""
        message = await self.call.read()
        if message is grpc.aio.EOF:  # type: ignore[attr-defined]  # not in the stubs
            return False
        self.messages.append(message)
        for event in message.events:
            assert event.call not in self.status, "a call goes on after its status"
            if event.HasField("admitted"):
                assert not self.deltas[event.call], "a call is let in after it began"
                self.admitted[event.call] = event.admitted
            elif event.HasField("response"):
                self.deltas[event.call].append(event.response)
            else:
                self.status[event.call] = event.status
        return True

    async def until(self, *calls: int) -> None:
        """Read until calls have their statuses."""
        while not self.status.keys() >= {*calls}:
            assert await self.read()

    def answer(self, call: int) -> pb.ChatResponse:
        whole = Accumulator()
        for delta in self.deltas[call]:
            whole.add(delta)
        return whole.response

    def reason(self, call: int) -> str:
        info = error_details_pb2.ErrorInfo()
        assert self.status[call].details[0].Unpack(info)
        return info.reason


@asynccontextmanager
async def peer(target: str, *metadata: tuple[str, str]) -> AsyncIterator[Peer]:
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = ChatServiceStub(channel)
        mux = Peer(stub.ChatMultiplex(metadata=metadata))
        yield mux
        mux.call.cancel()


def same(answer: Message, other: Message) -> bool:
    """Whether two answers are equal but for ids and times."""
    for message in (answer, other):
        message.ClearField("id")
        message.ClearField("timing")
    return answer == other


async def test_answers_are_those_of_calls_of_their_own(echo: RunningServer) -> None:
    """Each call has the answer, usage and OK of a ChatStream; one message has several calls'."""
    queries = {n: " ".join(["word"] * n) for n in range(1, 40)}
    async with peer(echo.target) as mux, grpc.aio.insecure_channel(echo.target) as channel:
        await mux.send(*(start(n, query, n=2) for n, query in queries.items()))
        await mux.until(*queries)
        for n, query in queries.items():
            whole = await ChatServiceStub(channel).Chat(make(pb.ChatRequest, query=query, n=2))
            assert same(mux.answer(n), whole)

    assert {status.code for status in mux.status.values()} == {code_pb2.OK}
    assert mux.admitted == {n: deltas[0].id for n, deltas in mux.deltas.items()}
    assert len(mux.messages) < sum(map(len, mux.deltas.values()))


async def test_one_failure_is_one_call_s(echo: RunningServer) -> None:
    """A refused call gets its status with details; the others go on."""
    async with peer(echo.target) as mux:
        await mux.send(
            start(1),
            start(2, ""),
            start(3, model="other"),
            start(4, sampling={"temperature": -1, "top_p": 7}),
            make(pb.ChatMultiplexRequest, call=5),
            start(6),
        )
        await mux.until(1, 2, 3, 4, 5, 6)

    assert [mux.status[n].code for n in range(1, 7)] == [0, 3, 5, 3, 3, 0]
    assert mux.admitted.keys() == {1, 6}
    assert [mux.reason(n) for n in (2, 3, 4, 5)] == [
        "INVALID_FIELD",
        "MODEL_NOT_FOUND",
        "INVALID_FIELD",
        "INVALID_FIELD",
    ]
    bad = error_details_pb2.BadRequest()
    assert mux.status[4].details[1].Unpack(bad)
    assert [v.field for v in bad.field_violations] == ["sampling.temperature", "sampling.top_p"]
    assert mux.answer(6).message.text == "a b c"


async def test_what_cannot_be_read_is_one_call_s(echo: RunningServer) -> None:
    """Bytes that are no request, or too many of them, end the call whose number they begin with."""
    deep = start(2, messages=[{}] * 30).SerializeToString()
    async with (
        running(EchoEngine(["echo"], "", 0), max_request_fields=20) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        multiplex: Any = channel.stream_stream(
            "/talkwire.v1.ChatService/ChatMultiplex",
            request_serializer=bytes,
            response_deserializer=pb.ChatMultiplexResponse.FromString,
        )
        mux = Peer(multiplex())
        for data in (start(1).SerializeToString(), deep, b"\x08\x03\x12\x02\x0a\x09"):
            await mux.call.write(data)
        await mux.until(1, 2, 3)
        mux.call.cancel()

    assert [mux.status[n].code for n in (1, 2, 3)] == [0, 3, 3]
    assert "more than 20 fields" in mux.status[2].message
    assert "is not a protobuf message" in mux.status[3].message


async def test_what_a_newer_contract_says_is_refused(echo: RunningServer) -> None:
    """Fields that this server does not know are named with their paths, all at once."""
    unknown = b"\x98\x06\x01"  # field 99
    request = start(1)
    request.MergeFromString(unknown)
    request.start.MergeFromString(unknown)
    cancelling = cancel(2)
    cancelling.cancel.MergeFromString(unknown)
    async with peer(echo.target) as mux:
        await mux.send(request, cancelling)
        await mux.until(1, 2)

    assert [mux.reason(n) for n in (1, 2)] == ["UNSUPPORTED_FEATURE"] * 2
    assert "field 99, start.field 99" in mux.status[1].message
    assert "cancel.field 99" in mux.status[2].message


async def test_a_cancel_ends_one_call_and_its_work() -> None:
    """Cancel: status CANCELLED, the engine idle; a cancel of what is not running is nothing."""
    engine = EchoEngine(["echo"], "", 0.02)
    async with running(engine) as server, peer(server.target) as mux:
        await mux.send(start(1, "word " * 1000), start(2, "a b c d"), cancel(7))
        while not mux.deltas[1]:
            await mux.read()
        await mux.send(cancel(1))
        await mux.until(1, 2)
        await mux.send(cancel(1), start(1, "again"))  # a number is free when its status has come
        del mux.status[1], mux.deltas[1]
        await mux.until(1)

        assert engine.unfinished == 0
    assert mux.status[2].code == 0
    assert mux.answer(1).message.text == "again"


async def test_a_timeout_ends_one_call() -> None:
    """Each call has its own deadline; what was said before it has come."""
    engine = EchoEngine(["echo"], "", 0.02)
    far = start(5)
    far.start.timeout.seconds = 2**62
    async with running(engine) as server, peer(server.target) as mux:
        await mux.send(
            start(1, "word " * 1000, timeout=0.5),
            start(2, "a b c", timeout=60),
            far,
            start(3, timeout=0),
            start(4, timeout=-1),
        )
        await mux.until(1, 2, 3, 4, 5)

        assert engine.unfinished == 0
    assert [mux.status[n].code for n in (1, 2, 3, 4, 5)] == [4, 0, 4, 4, 0]
    assert mux.deltas[1]


@pytest.mark.parametrize("more", [{}, {"chunking": {"min_chars": 20}}])
async def test_who_is_cut_cleans_up_once(more: dict[str, Any]) -> None:
    """A second Cancel, or a timeout beside it, ends no call's cleaning up; the first is told."""

    class Careful(EchoEngine):
        cleaned = 0

        async def stream(self, call: Call) -> Any:
            try:
                async for delta in super().stream(call):
                    yield delta
            finally:
                await asyncio.sleep(0.3)
                self.cleaned += 1

    engine = Careful(["echo"], "", 0.01)
    async with running(engine) as server, peer(server.target) as mux:
        await mux.send(*(start(n, "word " * 500, timeout=0.2, **more) for n in (1, 2)))
        while len(mux.deltas) < 2:
            await mux.read()
        await mux.send(cancel(1))
        await asyncio.sleep(0.25)
        await mux.send(cancel(1), cancel(2))
        await mux.until(1, 2)

    assert engine.cleaned == 2
    assert [mux.status[n].code for n in (1, 2)] == [
        code_pb2.CANCELLED,
        code_pb2.DEADLINE_EXCEEDED,
    ]


async def test_who_is_cut_twice_cleans_up_once() -> None:
    """A stream's task may be cancelled again while its calls clean up."""
    cleaned = asyncio.Event()

    async def feed(*_: Any) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned.set()

    async def requests() -> AsyncIterator[pb.ChatMultiplexRequest]:
        yield start(1)
        await asyncio.sleep(60)

    async def send(_: pb.ChatMultiplexResponse) -> None:
        pass

    serving = asyncio.create_task(Multiplex(feed, lambda _: "", 9).serve(requests(), send))
    await asyncio.sleep(0.01)
    for _ in range(2):
        serving.cancel()
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await cleaned.wait()
    assert serving.cancelled()


async def test_a_stream_of_too_many_calls_is_read_no_further() -> None:
    """What it may have at once is bounded here, too: who lets calls in may be slow to refuse."""
    begun: list[str] = []
    may_end = asyncio.Event()

    async def feed(_: str, request: pb.ChatRequest, *__: Any) -> None:
        begun.append(request.query)
        await may_end.wait()

    async def requests() -> AsyncIterator[pb.ChatMultiplexRequest]:
        for i in range(5):
            yield start(i, str(i))

    async def send(_: pb.ChatMultiplexResponse) -> None:
        pass

    serving = asyncio.create_task(Multiplex(feed, lambda _: "", 2).serve(requests(), send))
    await asyncio.sleep(0.05)
    at_first = [*begun]
    may_end.set()
    await serving

    assert at_first == ["0", "1"]
    assert begun == ["0", "1", "2", "3", "4"]


async def test_a_number_is_one_running_call_s(echo: RunningServer) -> None:
    """A second Start of a running number ends the stream: nobody could tell the two apart."""
    async with running(EchoEngine(["echo"], "", 60)) as server, peer(server.target) as mux:
        await mux.send(start(1), start(1))
        with pytest.raises(grpc.aio.AioRpcError, match="call: 1 is running") as caught:
            await mux.until(1)

        assert server.engine.unfinished == 0
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_ends_the_stream_ends_its_calls() -> None:
    """A second Start waits for no call, however much the others have to say."""
    async with running(EchoEngine(["echo"], "", 0)) as server, peer(server.target) as mux:
        await mux.send(start(1, "word " * 8000), start(2, "word " * 8000))
        while len(mux.deltas) < 2:
            await mux.read()
        await mux.send(start(1))
        with pytest.raises(grpc.aio.AioRpcError, match="call: 1 is running"):
            await mux.until(1, 2)

    assert not mux.status


async def test_the_stream_ends_when_its_last_call_does(echo: RunningServer) -> None:
    """After the caller said its last, the calls go on; then the stream is OK."""
    async with peer(echo.target) as mux:
        await mux.send(start(1), start(2))
        await mux.call.done_writing()
        while await mux.read():
            pass

        assert await mux.call.code() is grpc.StatusCode.OK
    assert mux.status.keys() == {1, 2}


async def test_who_hangs_up_ends_all() -> None:
    """A cancelled stream leaves nothing in the engine and nobody inside."""
    engine = EchoEngine(["echo"], "", 0.02)
    async with running(engine) as server:
        async with peer(server.target) as mux:
            await mux.send(*(start(n, "word " * 1000) for n in range(50)))
            while len(mux.deltas) < 50:
                await mux.read()
        await server.server.admission.empty()

        assert engine.unfinished == 0


async def test_admission_is_each_call_s_own() -> None:
    """What is too many is refused in its call, with RetryInfo, while the others run."""
    engine = EchoEngine(["echo"], "", 0.02)
    limits = {"max_running_requests": 2, "max_queued_requests": 0}
    async with running(engine, **limits) as server, peer(server.target) as mux:
        await mux.send(*(start(n, "a b c d e") for n in (1, 2, 3)))
        await mux.until(1, 2, 3)

    assert [mux.status[n].code for n in (1, 2, 3)] == [0, 0, code_pb2.RESOURCE_EXHAUSTED]
    assert mux.reason(3) == "QUEUE_FULL"
    assert error_details_pb2.RetryInfo.DESCRIPTOR.full_name in mux.status[3].details[1].type_url


async def test_a_token_is_asked_of_each_call(
    tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    """A stream outlives its token; its calls do not, and the log has a line for each."""
    caplog.set_level("INFO")
    file = TokenFile(tmp_path_factory.mktemp("tokens") / "tokens")
    ada = bearer(file.add("ada"))
    async with (
        running(EchoEngine(["echo"], "", 0), token_file=str(file.path)) as server,
        peer(server.target, *ada) as mux,
    ):
        await mux.send(start(1))
        await mux.until(1)
        file.path.write_text("")
        file.add("bob")
        while 2 not in mux.status or not mux.status[2].code:
            mux.status.pop(2, None)
            await mux.send(start(2))
            await mux.until(2)

    assert mux.status[1].code == 0
    assert mux.reason(2) == "TOKEN_INVALID"
    *_, last = (vars(record) for record in caplog.records if record.message == "chat ended")
    assert (last["fields"]["reason"], last["fields"]["caller"]) == ("TOKEN_INVALID", "ada")


async def test_all_is_said_before_the_server_leaves() -> None:
    """Drained, a server has sent every answer and status of its calls when it closes."""
    engine = EchoEngine(["echo"], "", 0.002)
    async with running(engine, lame_duck=0) as server, peer(server.target) as mux:
        await mux.send(*(start(n, "word " * 100) for n in range(50)))
        while len(mux.deltas) < 50:
            await mux.read()
        reading = asyncio.create_task(mux.until(*range(50)))
        await server.server.drain()
        await server.server.close()
        await reading

    assert {mux.answer(n).message.text for n in range(50)} == {"word " * 100}
    assert {status.code for status in mux.status.values()} == {code_pb2.OK}


async def test_who_is_cut_amid_much_hears_why() -> None:
    """A server that closes tells its reason, however fast its calls go on talking."""
    engine = EchoEngine(["echo"], "", 0)
    async with running(engine) as server, peer(server.target) as mux:
        await mux.send(*(start(n, "word " * 8000) for n in range(4)))
        while len(mux.deltas) < 4:
            await mux.read()
        reading = asyncio.create_task(mux.until(*range(4)))
        await server.server.close()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reading

    assert not mux.status
    assert caught.value.details() == "the server is shutting down"
    assert "grpc-status-details-bin" in trailers(caught.value)


@asynccontextmanager
async def lazy_peer(target: str) -> AsyncIterator[Peer]:
    """Ask for 20 answers of 8,000 words, and read one message."""
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 16384)]
    async with grpc.aio.insecure_channel(target, options) as channel:
        stub: Any = ChatServiceStub(channel)
        mux = Peer(stub.ChatMultiplex())
        await mux.send(*(start(n, "word " * 8000) for n in range(20)))
        await mux.read()
        yield mux


async def test_a_slow_peer_is_sent_less_and_cut() -> None:
    """Who reads nothing has one event of each call kept and one made, and is cut."""

    class Counting(EchoEngine):
        said = 0

        async def stream(self, call: Call) -> Any:
            async for delta in super().stream(call):
                self.said += 1
                yield delta

    engine = Counting(["echo"], "", 0)
    async with (
        running(engine, slow_reader_timeout=1) as server,
        lazy_peer(server.target) as mux,
    ):
        await server.server.admission.empty()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await mux.until(*range(20))
        assert engine.unfinished == 0
    calls = [[e.call for e in m.events if e.HasField("response")] for m in mux.messages]

    assert caught.value.code() is grpc.StatusCode.ABORTED
    assert all(len(found) == len({*found}) for found in calls)
    assert engine.said < 20 * 8000
    assert engine.said - sum(map(len, calls)) <= 20 * 3  # sent in vain, kept, and made


async def test_nobody_waits_for_a_peer_that_is_gone() -> None:
    """A server that left a peer which read nothing has no task left for it."""
    async with (
        running(EchoEngine(["echo"], "", 0)) as server,
        lazy_peer(server.target),
    ):
        await asyncio.sleep(0.3)  # till nothing more goes into its window
        await server.server.close()
        cuts = [task for task in asyncio.all_tasks() if "OpenCall.cut" in repr(task)]
        _, left = await asyncio.wait(cuts, timeout=10) if cuts else ((), ())

    assert not left


async def test_an_outbox_takes_one_event_a_call() -> None:
    """A call's second event waits till the first is on its way."""
    outbox = Outbox()
    outbox.add(1)
    waiting = asyncio.create_task(outbox.taken())
    await asyncio.sleep(0)
    assert outbox.holds(1)
    assert not waiting.done()

    assert len((await outbox.take()).events) == 1
    await waiting
    assert not outbox.holds(1)


async def test_an_outbox_is_flushed_of_what_was_there() -> None:
    """Who waits for what was added waits till its message is sent, not for what came later."""
    outbox = Outbox()
    await outbox.flushed()
    outbox.add(1)
    waiting = asyncio.create_task(outbox.flushed())
    await asyncio.sleep(0)
    done = []
    for n in range(3):  # the first is taken, then sent
        await outbox.take()
        outbox.add(n)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done.append(waiting.done())

    assert done == [False, True, True]


async def test_large_messages_are_cut_between_events() -> None:
    """No message is much larger than a megabyte, unless a single event is; the order stays."""
    message = pb.ChatMultiplexResponse()
    for n in range(10):
        message.events.add(call=n).response.text = "x" * (MOST_BYTES // 3)
    message.events.add(call=10).response.text = "x" * (2 * MOST_BYTES)
    cut = list(parts(message))

    assert [event for part in cut for event in part.events] == list(message.events)
    assert [len(part.events) for part in cut] == [2, 2, 2, 2, 2, 1]


async def test_an_engine_that_fails_is_a_call_s_status() -> None:
    """What an engine raises is the status of its call, without its words."""

    class Broken(EchoEngine):
        async def stream(self, call: Call) -> Any:
            if call.request.query == "break":
                msg = "secret"
                raise RuntimeError(msg)
            async for delta in super().stream(call):
                yield delta

    async with running(Broken(["echo"], "", 0)) as server, peer(server.target) as mux:
        await mux.send(start(1, "break"), start(2))
        await mux.until(1, 2)

    assert (mux.status[1].code, mux.reason(1)) == (code_pb2.INTERNAL, "ENGINE_FAILURE")
    assert "secret" not in str(mux.status[1])
    assert mux.status[2].code == 0


async def test_an_error_without_a_status_is_a_failure() -> None:
    """An error that the table of statuses lacks ends its call all the same, and the stream."""

    class Unlisted(CallError):
        pass

    class Broken(EchoEngine):
        async def stream(self, call: Call) -> Any:
            msg = "secret"
            raise Unlisted(msg)
            yield

    async with running(Broken(["echo"], "", 0)) as server, peer(server.target) as mux:
        await mux.send(start(1))
        await mux.call.done_writing()
        async with asyncio.timeout(10):
            while await mux.read():
                pass

        assert await mux.call.code() is grpc.StatusCode.OK
    assert (mux.status[1].code, mux.reason(1)) == (code_pb2.INTERNAL, "ENGINE_FAILURE")
    assert "secret" not in str(mux.status[1])
