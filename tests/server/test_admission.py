"""What admission does to real calls: they wait, run, or hear at once why not."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support import RunningServer, calling, make, running, trailers
from talkwire import InvalidRequest, Overloaded, Timeout
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.admission import Admission, LocalGate
from talkwire_server.admission.estimates import size
from talkwire_server.callers import Caller
from talkwire_server.echo import EchoEngine
from talkwire_server.errors import ModelNotFound, PermissionDenied, QuotaExceeded
from talkwire_server.settings import Settings

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub

ENDS = {"abort": pb.FINISH_REASON_ABORTED, "time_limit": pb.FINISH_REASON_TIME_LIMIT}
FOREVER = 3600.0  # seconds a word


class Busy:
    """A server with as many calls as it may run, which end only when they are told to."""

    def __init__(self, server: RunningServer, stub: "ChatServiceAsyncStub") -> None:
        self.server = server
        self.admission = server.server.admission
        self.stub = stub

    def stream(self, id: str, **fields: Any) -> Any:
        return self.stub.ChatStream(pb.ChatRequest(query="a b", request_id=id, **fields))

    async def run(self, id: str, **fields: Any) -> Any:
        """Begin a call, and see it run."""
        call = self.stream(id, **fields)
        await call.initial_metadata()
        return call

    async def wait(self, id: str, **fields: Any) -> Any:
        """Begin a call, and see it wait."""
        waiting = self.admission.waiting
        call = self.stream(id, **fields)
        await self.waiting(waiting + 1)
        return call

    async def waiting(self, count: int) -> None:
        async with asyncio.timeout(30):
            while self.admission.waiting != count:  # noqa: ASYNC110  # it has no event for it
                await asyncio.sleep(0.005)

    async def abort(self, id: str) -> None:
        assert (await self.stub.Abort(pb.AbortRequest(id=id))).found


@asynccontextmanager
async def busy(delay: float = FOREVER, **settings: Any) -> AsyncIterator[Busy]:
    async with (
        running(EchoEngine(["echo"], "", delay), **settings) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        yield Busy(server, ChatServiceStub(channel))


async def refused(call: Any) -> tuple[grpc.StatusCode, dict[str, Any], dict[str, Any]]:
    """Read how a call was refused: its code, its details by name, its trailers."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert "x-request-id" not in dict(await call.initial_metadata())
    trailer = trailers(caught.value)
    found: dict[str, Any] = {}
    for packed in status_pb2.Status.FromString(trailer["grpc-status-details-bin"]).details:
        kind = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])
        found[kind.__name__] = kind.FromString(packed.value)
    return caught.value.code(), found, trailer


async def test_beyond_the_bounds_a_call_is_refused_at_once() -> None:
    """QUEUE_FULL before initial metadata, with a delay; all that is no chat goes on."""
    async with busy(max_running_requests=1, max_queued_requests=1) as server:
        first, second = await server.run("first"), await server.wait("second")
        code, details, trailer = await refused(server.stream("third"))
        async with calling("async", server.server.target) as caller:
            health = health_pb2_grpc.HealthStub(grpc.aio.insecure_channel(server.server.target))
            check = await health.Check(health_pb2.HealthCheckRequest())
            counted = await caller.client.count_tokens("a b c")
            models = await caller.client.models()
        await server.abort("first")
        await second.initial_metadata()

        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert details["ErrorInfo"].reason == "QUEUE_FULL"
        delay = details["RetryInfo"].retry_delay.ToMilliseconds()
        assert 800 <= delay <= 1200
        assert trailer["grpc-retry-pushback-ms"] == str(delay)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        assert (counted.prompt_tokens, [model.id for model in models]) == (3, ["echo"])
        assert (await first.read()).finish_reason == pb.FINISH_REASON_ABORTED
        assert server.server.engine.unfinished == 1


async def test_half_as_many_wait_as_run() -> None:
    """Unless told otherwise, so that a wait is half the time of an answer."""
    async with busy(max_running_requests=3) as server:
        for number in range(3):
            await server.run(f"runs-{number}")
        for number in range(2):
            await server.wait(f"waits-{number}")
        _, details, _ = await refused(server.stream("last"))

        assert details["ErrorInfo"].reason == "QUEUE_FULL"


async def test_prompt_tokens_that_wait_are_bounded() -> None:
    """One for four bytes; a prompt that is longer than the bound waits where no other does."""
    bounds = {"max_queued_requests": 4, "max_queued_tokens": 100}
    async with busy(max_running_requests=1, **bounds) as server:
        await server.run("first")
        await server.wait("long", system="word " * 1000)
        _, details, _ = await refused(server.stream("third"))
        await server.abort("long")
        await server.waiting(0)
        for number in range(3):
            await server.wait(str(number), system="x" * 100)
        _, again, _ = await refused(server.stream("last", system="x" * 100))

        assert details["ErrorInfo"].reason == again["ErrorInfo"].reason == "QUEUE_FULL"


def picture(size: int) -> dict[str, Any]:
    """Ask about a picture of so many bytes."""
    return {"messages": [pb.Message(parts=[pb.Part(image=pb.Media(data=bytes(size)))])]}


async def test_bytes_that_wait_are_bounded() -> None:
    """Those of media are no tokens; one request that is over the bound waits as with tokens."""
    bounds = {"max_queued_requests": 4, "max_queued_tokens": 50, "max_queued_bytes": 1000}
    async with busy(max_running_requests=1, **bounds) as server:
        await server.run("first")
        await server.wait("large", **picture(2000))
        _, details, _ = await refused(server.stream("third", **picture(1)))
        await server.abort("large")
        await server.waiting(0)
        for number in range(2):
            await server.wait(str(number), **picture(400))
        _, again, _ = await refused(server.stream("last", **picture(400)))

        assert details["ErrorInfo"].reason == again["ErrorInfo"].reason == "QUEUE_FULL"


@pytest.mark.parametrize(
    ("fields", "tokens"),
    [
        ({"query": "a" * 3997}, 1000),  # and three bytes of its tag and length
        ({"query": "é" * 1999}, 1000),
        ({"messages": [{"parts": [{"text": "a" * 3992}]}]}, 1000),
        ({"query": "ab", **picture(10**6)}, 3),
        ({"query": "ab", "continuation": {"token_ids": range(1000, 2000)}}, 1002),
        ({"continuation": {"text": "a" * 3993}}, 1000),
        ({"query": "ab", "sampling": {"allowed_token_ids": range(1000)}}, 1),
        ({"query": "a" * 10**5}, 8192),
    ],
    ids=["text", "bytes", "parts", "media", "ids", "continued text", "sampling", "context"],
)
def test_what_counts_as_prompt(fields: dict[str, Any], tokens: int) -> None:
    """Text, by its bytes, and the ids of a continuation, up to the context; neither media."""
    assert size(make(pb.ChatRequest, **fields), 8192).tokens == tokens


async def test_the_wait_counts_as_queue() -> None:
    """`timing.queue` and `first_token` include it; the answer is whole."""
    async with (
        busy(0.02, max_running_requests=1) as server,
        calling("async", server.server.target) as caller,
    ):
        answers = await asyncio.gather(*(caller.chat("word " * 10) for _ in range(2)))
    first, second = sorted(answers, key=lambda answer: answer.timing.queue)

    assert first.text == second.text
    assert first.timing.queue == 0
    assert second.timing.queue >= 0.2
    assert second.timing.queue <= second.timing.first_token <= second.timing.total


@pytest.mark.parametrize("way", ["cancel", "deadline"])
async def test_who_leaves_while_it_waits_leaves_nothing(way: str) -> None:
    """Its place in the queue is another's; the engine never hears of it."""
    async with busy(max_running_requests=1, max_queued_requests=1) as server:
        await server.run("first")
        if way == "cancel":
            (await server.wait("second")).cancel()
        else:
            call = server.stub.ChatStream(pb.ChatRequest(query="x"), timeout=0.3)
            with pytest.raises(grpc.aio.AioRpcError, match=r"(?i)deadline"):
                await call.read()
        await server.waiting(0)
        third = await server.wait("third")
        await server.abort("first")
        await third.initial_metadata()

        assert server.admission.running == 1


@pytest.mark.parametrize("rpc", ["Chat", "ChatStream"])
@pytest.mark.parametrize("way", ["abort", "time_limit"])
async def test_a_call_that_waits_can_be_ended_well(way: str, rpc: str) -> None:
    """It ends OK with that reason and usage, for each of its answers, without a place."""
    async with busy(max_running_requests=2) as server:
        await server.run("first", n=2)
        request = pb.ChatRequest(query="x", request_id="second", n=2)
        if way == "time_limit":
            request.time_limit.FromMilliseconds(200)
        client = getattr(server.stub, rpc)(request)
        if way == "abort":
            await server.waiting(1)
            await server.abort("second")
        if rpc == "Chat":
            answer = await client
            reasons = [answer.finish_reason, answer.alternatives[0].finish_reason]
        else:
            deltas = [delta async for delta in client]
            answer = deltas[-1]
            reasons = [delta.finish_reason for delta in deltas]
            assert (deltas[0].id, deltas[0].model) == ("second", "echo")

        assert reasons == [ENDS[way]] * 2
        assert answer.HasField("usage")
        assert answer.usage == pb.Usage()
        assert 0 < answer.timing.queue.ToNanoseconds() <= answer.timing.total.ToNanoseconds()
        assert (server.admission.waiting, server.server.engine.unfinished) == (0, 1)


@pytest.mark.parametrize(
    ("how", "reason"), [("close", "SHUTTING_DOWN"), ("reload", "MODEL_LOADING")]
)
async def test_a_stop_sends_those_away_who_wait(how: str, reason: str) -> None:
    """At once and before initial metadata, so that another replica takes them; others go on."""
    async with busy(max_running_requests=1) as server:
        first, second = await server.run("first"), await server.wait("second")
        getattr(server.admission, how)()
        code, details, _ = await refused(second)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert details["ErrorInfo"].reason == reason
        assert not first.done()
        assert server.admission.running == 1


async def test_each_of_n_answers_takes_a_place() -> None:
    """And more than there are can never run."""
    async with busy(max_running_requests=2, max_queued_requests=1) as server:
        await server.run("first")
        await server.wait("two", n=2)
        with pytest.raises(grpc.aio.AioRpcError, match="n: must be <= 2, got 3"):
            await server.stream("three", n=3).read()


async def test_a_caller_has_so_many_calls() -> None:
    """QUOTA_EXCEEDED at once, naming whose quota it is; what it has goes on."""
    async with busy(max_running_per_caller=1) as server:
        await server.run("first")
        code, details, trailer = await refused(server.stream("second"))
        (violation,) = details["QuotaFailure"].violations
        await server.abort("first")
        async with asyncio.timeout(30):
            await server.admission.empty()
        await server.run("third")

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert details["ErrorInfo"].reason == "QUOTA_EXCEEDED"
    assert violation.subject == "caller:127.0.0.1"
    assert violation.description == "1 at once"
    assert details["RetryInfo"].retry_delay.ToMilliseconds() == int(
        trailer["grpc-retry-pushback-ms"]
    )


async def test_a_caller_has_so_many_tokens_a_minute() -> None:
    """Prompt and answer are charged; what is over the limit takes its time to come back."""
    async with (
        running(EchoEngine(["echo"], "", 0), max_tokens_per_minute=60) as server,
        calling("async", server.target, retry=None) as caller,
    ):
        for _ in range(2):
            await caller.chat("word " * 10)
        await caller.chat("word " * 50)
        with pytest.raises(Overloaded, match="60 tokens a minute") as caught:
            await caller.chat("x")

    assert caught.value.reason == "QUOTA_EXCEEDED"
    assert caught.value.retry_after
    assert 50 < caught.value.retry_after < 90


def admission(**settings: Any) -> Admission:
    engine = EchoEngine(["echo", "other", "brief"], "", 0)
    engine.models[2].default_sampling.max_tokens = 256
    made = Admission(engine, Settings(**settings))
    made.open()
    return made


async def test_tokens_of_calls_inside_are_held() -> None:
    """So that a caller does not begin many calls before the first is charged."""
    door, ada = admission(), Caller(name="ada", tokens_per_minute=100)
    request = pb.ChatRequest(query="x")
    request.sampling.max_tokens = 99
    async with door.enter("1", request, ada):
        with pytest.raises(QuotaExceeded):
            async with door.enter("2", request, ada):
                pass
        async with door.enter("3", request, Caller(name="bob")):
            pass


@pytest.mark.parametrize(
    ("fields", "held"),
    [
        ({}, 1 + 1024),
        ({"n": 2}, 1 + 2 * 1024),
        ({"model": "brief"}, 2 + 256),
        ({"sampling": {"max_tokens": 3000}}, 1 + 3000),
        ({"sampling": {"max_tokens": 10**6}}, 8192),
        ({"system": "a" * 4 * 8000}, 8192),
    ],
)
async def test_what_is_held_for_an_answer(fields: dict[str, Any], held: int) -> None:
    """`max_tokens`, or what is usual, for each of its answers, as far as the context goes."""
    door, request = admission(), make(pb.ChatRequest, query="ab", **fields)
    for limit, fits in ((held, False), (held + 1, True)):
        ada = Caller(name=f"ada {limit}", tokens_per_minute=limit)
        refusal = nullcontext() if fits else pytest.raises(QuotaExceeded)
        async with door.enter("1", request, ada):
            with refusal:
                async with door.enter("2", request, ada):
                    pass


async def test_a_call_that_is_refused_as_it_begins_costs_nothing() -> None:
    """Its prompt did not fit; the caller has all its tokens still."""
    async with (
        running(EchoEngine(["echo"], "", 0), max_tokens_per_minute=60) as server,
        calling("async", server.target, retry=None) as caller,
    ):
        with pytest.raises(InvalidRequest, match="9001 prompt tokens"):
            await caller.chat("word " * 9000)

        assert (await caller.chat("x")).text == "x"


async def test_a_limit_that_is_set_later_begins_then() -> None:
    """What a caller used before is no debt."""
    door, request = admission(), pb.ChatRequest(query="x")
    request.sampling.max_tokens = 9
    async with door.enter("1", request, Caller(name="ada")) as first:
        async with door.enter("2", request, Caller(name="ada")) as second:
            second.used = 1000
        async with door.enter("3", request, Caller(name="ada", tokens_per_minute=100)) as third:
            assert first.places == third.places == 1


@pytest.mark.parametrize(("used", "left"), [(150, False), (50, True), (0, True)])
async def test_a_call_that_is_cut_is_charged_too(used: int, left: bool) -> None:
    """With what the engine saw of it."""
    door, ada = admission(), Caller(name="ada", tokens_per_minute=100)
    request = pb.ChatRequest(query="x")
    request.sampling.max_tokens = 100
    with suppress(asyncio.CancelledError):
        async with door.enter("1", request, ada) as call:
            call.used = used
            raise asyncio.CancelledError
    refused = False
    try:
        async with door.enter("2", pb.ChatRequest(query="x"), ada):
            pass
    except QuotaExceeded:
        refused = True

    assert refused is not left


async def test_the_engine_tells_what_a_cut_stream_used() -> None:
    """All that was said counts, also where the caller left before the usage came."""
    engine = EchoEngine(["echo"], "", 0)
    made = Admission(engine, Settings())
    made.open()
    async with made.enter("1", pb.ChatRequest(query="a b c d"), Caller(name="ada")) as call:
        stream = engine.stream(call)
        await anext(stream)
        await anext(stream)
        await stream.aclose()

    assert call.used == 4 + 2


async def test_a_deadline_that_cannot_be_met_is_refused() -> None:
    """DEADLINE_UNREACHABLE with the estimate, and nothing is started; a longer one waits."""
    async with (
        busy(1.0, max_running_requests=1) as server,
        calling("async", server.server.target, retry=None) as caller,
    ):
        await caller.chat("a b c d")
        running_call = await server.run("first")
        with pytest.raises(Timeout, match="the wait is about") as caught:
            await caller.chat("x", timeout=3)
        assert server.admission.waiting == 0
        assert (await caller.chat("x", timeout=100)).text == "x"
        running_call.cancel()

    assert caught.value.reason == "DEADLINE_UNREACHABLE"
    assert float(caught.value.metadata["estimate"]) >= 4


async def test_models_that_are_not_for_a_caller() -> None:
    """MODEL_FORBIDDEN, the default one too; what there is for it is told."""
    door, ada = admission(), Caller(name="ada", models=["other"])
    assert door.check("1", pb.ChatRequest(query="x", model="other"), ada).model == "other"
    for model in ("", "echo"):
        with pytest.raises(PermissionDenied, match="'echo' is not for this caller"):
            door.check("1", pb.ChatRequest(query="x", model=model), ada)
    with pytest.raises(ModelNotFound, match=r"there is: other$"):
        door.check("1", pb.ChatRequest(query="x", model="none"), ada)


async def test_callers_that_are_gone_are_forgotten() -> None:
    """However many there were."""
    door = admission(max_tokens_per_minute=60_000_000)
    for number in range(1000):
        async with door.enter("1", pb.ChatRequest(query="x"), Caller(name=str(number))):
            await asyncio.sleep(0)

    assert isinstance(door._gate, LocalGate)
    assert len(door._gate._accounts._accounts) < 20


async def test_the_client_waits_as_it_is_told() -> None:
    """The channel tries again after the pushback, so that a short overload is seen by nobody."""
    async with (
        busy(0.02, max_running_requests=1, max_queued_requests=1) as server,
        calling("async", server.server.target) as caller,
    ):
        answers = await asyncio.gather(*(caller.chat(f"{i} b c") for i in range(4)))

    assert [answer.text for answer in answers] == [f"{i} b c" for i in range(4)]
