"""Answers that break off and go on by themselves, over connections and servers that are lost."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import talkwire
from fault_table import Table
from multiplexing import Multiplexing
from processes import launched
from support import RunningServer, calling, sees
from talkwire import Answer, _resume
from talkwire._balance import Balancer, Route
from talkwire._resume import TRIES, Course
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from wires import wired

Code = grpc.StatusCode

STREAMS = 64
WORDS = " ".join(map(str, range(500)))  # ten seconds of the slow echo


def question(i: int) -> dict[str, Any]:
    """Make a question whose answer takes half a minute on the slow one, and ends in its own way."""
    words = " ".join(f"{i}.{word}" for word in range(97 + i % 7))
    if i % 3:
        return {"query": words, "max_tokens": 100}
    return {"query": words, "reasoning": "low", "stop": f" {i}.80"}


def told(answer: Answer) -> pb.ChatResponse:
    """Return what an answer says, without what is its call's own."""
    answer.proto.ClearField("id")
    answer.proto.ClearField("model")
    answer.proto.ClearField("timing")
    return answer.proto


@pytest.mark.parametrize(
    ("balance", "number"),
    [
        ("first", signal.SIGKILL),
        ("round_robin", signal.SIGKILL),
        ("first", signal.SIGTERM),
    ],
)
async def test_no_answer_is_lost_with_a_replica(
    kind: str, balance: str, number: signal.Signals, table: Table
) -> None:
    """Of 64 streams those on a server that dies or leaves go on at the other, as if undisturbed."""
    with (
        launched("--served-model-name=a", "--echo-delay=0.3", "--grace=0.1") as a,
        launched("--served-model-name=b") as b,
    ):
        async with calling(kind, [a.target, b.target], balance=balance, resume=True) as caller:
            await sees(caller, 2)
            begun = asyncio.Barrier(STREAMS + 1)

            async def ask(i: int) -> tuple[str, Answer, int]:
                async with caller.stream(**question(i)) as stream:
                    chunk = await anext(stream)
                    await begun.wait()
                    return chunk.proto.model, await stream.wait(), stream.resumed

            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(i)) for i in range(STREAMS)]
                await begun.wait()
                a.signal(number)
            answers = [task.result() for task in asking]
        async with calling("async", b.target, include={"token_ids": True}) as other:
            undisturbed = await asyncio.gather(*(other.chat(**question(i)) for i in range(STREAMS)))

    pairs = zip(answers, undisturbed, strict=True)
    lost = sum(told(answer) != told(whole) for (_, answer, _), whole in pairs)
    done = f"{number.name} of one of two: streams with resume, {balance}"
    table.add(
        "replica dies", done, STREAMS, lost, f"{sum(first == 'a' for first, *_ in answers)} moved"
    )
    assert "a" in {first for first, *_ in answers}
    assert [resumed for *_, resumed in answers] == [first == "a" for first, *_ in answers]
    assert [told(answer) for _, answer, _ in answers] == [told(answer) for answer in undisturbed]


@pytest.mark.parametrize(
    "asked",
    [
        {"query": WORDS},
        {"query": WORDS, "reasoning": "low", "include": {"logprobs": 0, "prompt_token_ids": True}},
        {"query": f'f({{"a": "{WORDS}"}})', "tools": [{"name": "f"}]},
        {"query": WORDS, "continuation": [0, 1]},
        {"query": WORDS, "continuation": Answer(pb.ChatResponse(token_ids=[0]))},
    ],
    ids=["words", "thoughts", "call", "rest", "whole"],
)
async def test_a_lost_connection_is_not_seen(
    kind: str, slow_echo: RunningServer, echo: RunningServer, asked: dict[str, Any]
) -> None:
    """Broken twice in mid-answer, its chunks and the whole are those of an undisturbed one."""
    asked = {"request_id": f"mine-{kind.split()[-1]}", "system": "s", **asked}
    async with wired(slow_echo.target) as wire, calling(kind, wire.target, resume=True) as caller:
        async with caller.stream(**asked) as stream:
            chunks = []
            async for chunk in stream:
                chunks.append(chunk)
                if len(chunks) in (3, 9):
                    wire.far = echo.target if stream.resumed else slow_echo.target
                    wire.cut()
        asked["include"] = {"token_ids": True, **asked.get("include", {})}
        whole = await caller.chat(**asked, resume=False)

    assert stream.resumed == 2
    assert stream.id == stream.answer.id
    assert not any(chunk.proto.prompt_token_ids for chunk in chunks[1:])
    assert told(stream.answer) == told(whole)
    assert [i for chunk in chunks for i in chunk.token_ids] == whole.token_ids[-len(chunks) + 1 :]


async def test_chat_goes_on_too(kind: str, slow_echo: RunningServer, echo: RunningServer) -> None:
    """What is answered in one message is streamed inside, and so survives as well."""
    async with wired(slow_echo.target) as wire, calling(kind, wire.target) as caller:
        asking = asyncio.create_task(caller.chat(WORDS, resume=True))
        await begun(slow_echo)
        wire.far = echo.target
        wire.cut()
        answer = await asking

    assert (answer.text, answer.token_ids) == (WORDS, [*range(500)])


async def begun(server: RunningServer) -> None:
    """Wait until the server has a call."""
    while not server.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
        await asyncio.sleep(0.005)


async def test_a_call_never_runs_twice_on_a_server(kind: str, slow_echo: RunningServer) -> None:
    """Where the server does not know of the loss, it ends the first call for the next."""
    most = 0
    async with (
        wired(slow_echo.target) as wire,
        calling(kind, wire.target, resume=True) as caller,
        caller.stream(WORDS) as stream,
    ):
        await anext(stream)
        wire.cut(half=True)
        while not stream.resumed:
            await anext(stream)
            most = max(most, slow_echo.engine.unfinished)

    assert (stream.resumed, most) == (1, 1)
    assert WORDS.startswith(stream.answer.text)


async def test_grpcs_own_tries_never_run_twice(kind: str, slow_echo: RunningServer) -> None:
    """A call that the server took unheard, and that gRPC tries again, is refused by its id."""
    async with wired(slow_echo.target) as wire, calling(kind, wire.target) as caller:
        await caller.chat("hi")
        wire.deaf = True
        asking = asyncio.create_task(caller.chat(WORDS))
        await begun(slow_echo)
        wire.deaf = False
        wire.cut(half=True)
        with pytest.raises(talkwire.RequestIdInUse):
            await asking
        assert slow_echo.engine.unfinished == 1
    await slow_echo.server.admission.empty()


async def test_a_server_is_waited_for(
    kind: str, slow_echo: RunningServer, echo: RunningServer
) -> None:
    """While nobody listens the stream waits, and goes on when somebody does."""
    async with (
        wired(slow_echo.target) as wire,
        calling(kind, wire.target, resume=True) as caller,
        caller.stream(WORDS) as stream,
    ):
        await anext(stream)
        wire.close()
        wire.cut()
        waiting = asyncio.create_task(stream.wait())
        await asyncio.sleep(0.5)
        wire.far = echo.target
        await wire.open()
        answer = await waiting

    assert (answer.text, stream.resumed) == (WORDS, 1)


async def test_a_server_is_not_waited_for_beyond_the_deadline(
    kind: str, slow_echo: RunningServer
) -> None:
    """Then the failure is that of the connection, and holds what had come."""
    async with (
        wired(slow_echo.target) as wire,
        calling(kind, wire.target, resume=True) as caller,
        caller.stream(WORDS, timeout=3) as stream,
    ):
        await anext(stream)
        wire.close()
        wire.cut()
        with pytest.raises(talkwire.ConnectError, match="Connection refused") as caught:
            await stream.wait()

    assert caught.value.target == wire.target
    assert caught.value.partial
    assert WORDS.startswith(caught.value.partial.text)
    assert caught.value.partial.token_ids


async def test_what_was_stopped_does_not_go_on(kind: str, slow_echo: RunningServer) -> None:
    """Neither a stream that its caller stops or cancels, nor one whose deadline passes."""
    async with wired(slow_echo.target) as wire, calling(kind, wire.target, resume=True) as caller:
        async with caller.stream(WORDS) as stopped:
            await anext(stopped)
            wire.deaf = True
            stopping = asyncio.create_task(stopped.stop())
            await slow_echo.server.admission.empty()
            wire.deaf = False
            wire.cut()
            with pytest.raises(talkwire.ConnectError):
                await stopping
        async with caller.stream(WORDS) as stream:
            await anext(stream)
            stream.cancel()
            with pytest.raises(talkwire.Cancelled):
                await stream.wait()
        with pytest.raises(talkwire.Timeout):
            await caller.chat(WORDS, timeout=0.3)

    assert (stopped.resumed, stream.resumed) == (0, 0)


async def test_cancel_ends_the_wait_for_a_server(kind: str, slow_echo: RunningServer) -> None:
    """At once, amid an answer that is to go on and before one has begun."""
    async with (
        wired(slow_echo.target) as wire,
        calling(kind, wire.target, resume=True, connect_timeout=500) as caller,
    ):
        async with caller.stream(WORDS) as stream:
            await anext(stream)
            wire.close()
            wire.cut()
            waiting = asyncio.create_task(stream.wait())
            await asyncio.sleep(0.5)
            stream.cancel()
            with pytest.raises(talkwire.Cancelled) as caught:
                await waiting
        assert caught.value.partial
        assert WORDS.startswith(caught.value.partial.text)

        stream = caller.client.stream(WORDS)
        enter = (
            stream.__aenter__() if kind.startswith("async") else asyncio.to_thread(stream.__enter__)
        )
        entering = asyncio.ensure_future(enter)
        await asyncio.sleep(0.5)
        stream.cancel()
        with pytest.raises(talkwire.Cancelled):
            await entering


# Which failures pass


class Breaking(Multiplexing):
    """Says a word a call. Each call but the last fails: (code, reason, delay, said a word?).

    What has said None was let in, and no more.
    """

    text = "no"

    def __init__(self, *failures: tuple[grpc.StatusCode, str, float, bool | None]) -> None:
        self.requests: list[pb.ChatRequest] = []
        self.aborted: list[str] = []
        self._failures = failures

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        at = len(self.requests)
        self.requests.append(request)
        code, reason, delay, said = (*self._failures, (None, "", 0, True))[at]
        if said is not False:
            await context.send_initial_metadata((("x-request-id", "given"),))
        if said:
            yield pb.ChatStreamResponse(text=f"{at} ", token_ids=[at], id="given", model="m")
        if code:
            status = status_pb2.Status(code=code.value[0])
            info = error_details_pb2.ErrorInfo(reason=reason)
            later = error_details_pb2.RetryInfo()
            later.retry_delay.FromMilliseconds(int(delay * 1000))
            for detail in (info, later) if reason else ():
                status.details.add().Pack(detail)
            trailers = (("grpc-status-details-bin", status.SerializeToString()),)
            await context.abort(code, self.text, trailing_metadata=trailers)
        yield pb.ChatStreamResponse(finish_reason=pb.FINISH_REASON_STOP, usage=pb.Usage())

    async def Abort(self, request: pb.AbortRequest, context: Any) -> pb.AbortResponse:
        self.aborted.append(request.id)
        return pb.AbortResponse()


@asynccontextmanager
async def breaking(kind: str, service: Breaking) -> AsyncIterator[Any]:
    """Connect a client to a service that breaks."""
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(kind, f"127.0.0.1:{port}", resume=True, retry=None) as caller:
        yield caller
    await server.stop(None)


async def test_it_goes_on_after_what_passes(kind: str) -> None:
    """A server that leaves or dies, then such as are full, loading, or have the id still."""
    service = Breaking(
        (Code.UNAVAILABLE, "SHUTTING_DOWN", 60, True),  # not that of another server
        (Code.UNAVAILABLE, "ENGINE_DEAD", 0, True),
        (Code.UNAVAILABLE, "MODEL_LOADING", 0.1, False),
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.2, False),
        (Code.ALREADY_EXISTS, "REQUEST_ID_IN_USE", 0, False),
        (Code.UNAVAILABLE, "", 0, True),
    )  # type: ignore[abstract]
    begin = monotonic()
    async with (
        breaking(kind, service) as caller,
        caller.stream("x", time_limit=100, temperature=0) as stream,
    ):
        answer = await stream.wait()

    assert monotonic() - begin > 0.3
    assert (answer.text, answer.complete, stream.resumed) == ("0 1 5 6 ", True, 3)
    first, *others = service.requests
    assert first.include.token_ids
    assert {other.request_id for other in others} == {*service.aborted} == {"given"}
    assert [[*other.continuation.token_ids] for other in others] == [
        *([0], [0, 1], [0, 1], [0, 1], [0, 1], [0, 1, 5])
    ]
    limits = [request.time_limit.ToNanoseconds() for request in service.requests]
    assert limits == sorted(limits, reverse=True)
    assert 0 < limits[-1] < limits[0] == 100e9


@pytest.mark.parametrize(
    "code",
    [
        *(Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.INTERNAL, Code.ABORTED),
        *(Code.RESOURCE_EXHAUSTED, Code.INVALID_ARGUMENT, Code.PERMISSION_DENIED),
    ],
)
async def test_it_does_not_go_on_after_what_will_not_pass(kind: str, code: grpc.StatusCode) -> None:
    """Such a failure amid an answer, or of the call that goes on, is raised as it is."""
    amid = Breaking((code, "SO", 0, True))  # type: ignore[abstract]
    after = Breaking((Code.UNAVAILABLE, "", 0, True), (code, "SO", 0, False))  # type: ignore[abstract]
    for service in (amid, after) if code is not Code.RESOURCE_EXHAUSTED else (amid,):
        async with breaking(kind, service) as caller:
            with pytest.raises(talkwire.Error) as caught:
                await caller.chat("x")
        assert caught.value.code is code
        assert caught.value.partial
        assert caught.value.partial.text == "0 "


async def test_it_goes_on_after_what_nobody_here_cancelled(kind: str) -> None:
    """GRPC itself ends calls as CANCELLED, without a reason, when a server leaves."""
    service = Breaking((Code.CANCELLED, "", 0, True), (Code.CANCELLED, "", 0, False))  # type: ignore[abstract]
    async with breaking(kind, service) as caller, caller.stream("x") as stream:
        answer = await stream.wait()

    assert (answer.text, answer.complete, stream.resumed) == ("0 2 ", True, 1)


async def test_cancel_ends_a_pause(kind: str) -> None:
    """At once, however long a server asked to wait."""
    service = Breaking(
        (Code.UNAVAILABLE, "", 0, True), (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 500, False)
    )  # type: ignore[abstract]
    async with breaking(kind, service) as caller, caller.stream("x") as stream:
        waiting = asyncio.create_task(stream.wait())
        while len(service.requests) < 2:  # noqa: ASYNC110  # until it is refused
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.2)
        stream.cancel()
        with pytest.raises(talkwire.Cancelled) as caught:
            await waiting

    assert caught.value.partial
    assert (caught.value.partial.text, len(service.requests)) == ("0 ", 2)


async def test_a_refusal_of_the_first_call_is_raised(kind: str) -> None:
    """Nothing has broken off then; trying again is gRPC's affair."""
    service = Breaking((Code.UNAVAILABLE, "MODEL_LOADING", 0.1, False))  # type: ignore[abstract]
    async with breaking(kind, service) as caller:
        with pytest.raises(talkwire.Unavailable) as caught:
            await caller.chat("x")

    assert (caught.value.reason, caught.value.retry_after) == ("MODEL_LOADING", 0.1)
    assert len(service.requests) == 1


async def test_a_delay_beyond_the_deadline_is_not_waited_for(kind: str) -> None:
    """The refusal is raised at once, and says when it would pass."""
    service = Breaking(
        (Code.UNAVAILABLE, "", 0, True), (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 1000, False)
    )  # type: ignore[abstract]
    async with breaking(kind, service) as caller:
        with pytest.raises(talkwire.Overloaded) as caught:
            await caller.chat("x", timeout=100)

    assert caught.value.retry_after == 1000
    assert caught.value.partial


async def test_it_begins_again_where_a_proxy_lost_the_server(kind: str) -> None:
    """Whether that had let the call in, nobody knows: the next has its id, so not both can run."""
    service = Breaking(
        (Code.INTERNAL, "", 0, False),
        (Code.INTERNAL, "", 0, False),
        (Code.ALREADY_EXISTS, "REQUEST_ID_IN_USE", 0, False),  # it had, and runs it still
        (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", 0.1, False),
    )  # type: ignore[abstract]
    service.text = "Received RST_STREAM with error code 2"
    async with breaking(kind, service) as caller:
        answer = await caller.chat("x", metadata={"x-request-id": "mine"})

    assert answer.text == "4 "
    assert [request.request_id for request in service.requests[1:]] == ["mine"] * 4
    assert service.aborted == ["mine"]


def test_calls_that_are_lost_are_bounded() -> None:
    """Ten in a row without a new token; refusals are not, and pauses grow to five seconds."""
    refusal = talkwire.Unavailable("gone", code=Code.UNAVAILABLE)
    lost = talkwire.Unavailable("gone", code=Code.UNAVAILABLE)
    let_in, nothing = grpc.aio.Metadata(("x-request-id", "id")), grpc.aio.Metadata()
    lost.__cause__ = grpc.aio.AioRpcError(Code.UNAVAILABLE, let_in, nothing, "", "")
    route: Route[Any] = Route(Balancer("first", None, chooses=False))
    arguments = {"timeout": None, "metadata": ()}
    course = Course(pb.ChatRequest(), lambda _: arguments, None, route, resume=True)
    course.arguments()
    pauses = []
    for tokens in ([], [1]):
        answer = Answer(pb.ChatResponse(token_ids=tokens))
        more = TRIES - 1 + len(tokens)
        pauses = [course.follow(lost, "id", answer) for _ in range(more)]
        for _ in range(2000):
            course.follow(refusal, "id", answer)
        with pytest.raises(talkwire.Unavailable):
            course.follow(lost, "id", answer)

    assert TRIES == 10
    assert 0 <= min(pauses) <= max(pauses) <= 5
    assert len({*pauses}) == TRIES


async def test_only_calls_that_are_lost_are_counted(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that servers take, as one does that dies of the request; no refusal, and no word."""
    monkeypatch.setattr(_resume, "TRIES", 2)
    refused = (Code.UNAVAILABLE, "MODEL_LOADING", 0, False)
    said, lost = (Code.UNAVAILABLE, "", 0, True), (Code.UNAVAILABLE, "", 0, None)
    service = Breaking(said, refused, refused, lost, refused, said, lost, refused, lost)  # type: ignore[abstract]
    async with breaking(kind, service) as caller:
        with pytest.raises(talkwire.ConnectError, match="lost the connection") as caught:
            await caller.chat("x")

    assert caught.value.partial
    assert (caught.value.partial.text, len(service.requests)) == ("0 5 ", 9)


def test_what_cannot_go_on_is_refused_before_it_is_sent() -> None:
    """Every field that stands against it is named, for `chat` as for a stream."""
    with talkwire.Client("127.0.0.1:1", resume=True) as client:
        with pytest.raises(ValueError, match="resume") as caught:
            client.stream(
                "x",
                n=2,
                output=dict,
                tool_choice="required",
                include={"prompt_logprobs": 1},
                reasoning={"exclude": True},
                continuation=pb.Continuation(text="t"),
            )
        with pytest.raises(ValueError, match="an answer with a forced tool_choice cannot go on"):
            client.chat("x", tool_choice="f")
        client.stream("x", n=2, resume=False)

    assert str(caught.value) == (
        "resume: an answer with n > 1, output_format, a forced tool_choice, "
        "include.prompt_logprobs, reasoning.exclude, continuation.text cannot go on: "
        "ask with resume=False"
    )
