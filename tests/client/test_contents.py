"""What answers carry besides text, and how they end before their end, as both clients see it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from time import sleep
from typing import Any

import grpc
import pytest

import talkwire
from multiplexing import Multiplexing
from support import RunningServer, calling, make
from talkwire import Accumulator, Client
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc

EVERYTHING = {"logprobs": 0, "prompt_logprobs": 0, "token_ids": True, "prompt_token_ids": True}


async def test_thoughts_come_apart_from_the_text(client: Any) -> None:
    """`reasoning` is one word, or all the controls; tokens of thought are counted."""
    answer = await client.chat("a b", reasoning="low")
    async with client.stream("a b", reasoning={"effort": "max", "max_tokens": 1}) as stream:
        thoughts = [chunk.reasoning async for chunk in stream]

    assert (answer.reasoning, answer.text, answer.usage.reasoning_tokens) == ("a b", "a b", 2)
    assert (thoughts[0], stream.answer.reasoning, stream.answer.text) == ("a", "a", "a b")
    hidden = await client.chat("a b", reasoning={"effort": "low", "exclude": True})
    assert (hidden.reasoning, hidden.text, hidden.usage.reasoning_tokens) == ("", "a b", 2)
    assert (await client.chat("a", reasoning="none")).reasoning == ""


async def test_log_probabilities_and_ids_come_where_they_are_asked_for(client: Any) -> None:
    """Of the answer with each chunk, of the prompt with the first; none without being asked."""
    async with client.stream("a b", include=EVERYTHING, system="") as stream:
        chunks = [chunk async for chunk in stream]
    answer, whole = stream.answer, await client.chat("a b", include=EVERYTHING, system="")

    assert [chunk.token_ids for chunk in chunks] == [[0], [1], []]
    assert [[one.token for one in chunk.logprobs] for chunk in chunks] == [["a"], [" b"], []]
    for one in (answer, whole):
        assert (one.token_ids, one.prompt_token_ids) == ([0, 1], [0, 1])
        assert [token.token for token in one.logprobs] == ["a", " b"]
        assert [token.token for token in one.prompt_logprobs] == ["user: a", " b"]
        assert not one.prompt_logprobs[0].HasField("logprob")
    bare = await client.chat("a b")
    assert [bare.token_ids, bare.logprobs, bare.prompt_token_ids, bare.prompt_logprobs] == [[]] * 4


async def test_several_answers(client: Any) -> None:
    """`alternatives` are answers of their own; chunks say to which one they belong."""
    async with client.stream("a b", n=3, max_tokens=1, include={"token_ids": True}) as stream:
        indices = [chunk.index async for chunk in stream]
    answer = await client.chat("a b", n=3, max_tokens=1)

    assert indices == [0, 1, 2] * 2
    assert len(answer.alternatives) == len(stream.answer.alternatives) == 2
    for other in stream.answer.alternatives:
        assert (other.text, other.finish_reason, other.token_ids) == ("a", "length", [0])
        assert (other.id, other.model, other.usage) == (stream.id, "echo", stream.answer.usage)
        assert other.complete
        assert other.alternatives == []
    assert answer.usage.completion_tokens == 3


async def test_a_stream_has_its_id_before_the_first_chunk(slow_client: Any) -> None:
    """It comes with the admission."""
    async with slow_client.stream("a b", request_id="first") as stream:
        assert stream.id == "first"
        assert stream.answer.id == ""


class Bare(Multiplexing):
    """Answers without initial metadata, as what comes through some proxies."""

    async def ChatStream(
        self, request: pb.ChatRequest, _: object
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        """Say back what is asked, if anything is."""
        for word in request.query.split():
            yield pb.ChatStreamResponse(text=word, id="bare", model="m")


async def test_a_stream_without_metadata_loses_nothing(kind: str) -> None:
    """Its first chunk gives the id, and is iterated like the others; no chunk is no failure."""
    server = grpc.aio.server()
    bare = Bare()  # type: ignore[abstract]  # one method is enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(bare, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(kind, f"127.0.0.1:{port}") as caller:
        async with caller.stream("a b") as stream:
            assert stream.id == "bare"
            assert [chunk.text async for chunk in stream] == ["a", "b"]
            assert stream.answer.text == "ab"
        async with caller.stream("") as stream:
            assert [chunk async for chunk in stream] == []
    await server.stop(None)


class Silent(Multiplexing):
    """Takes calls, and says nothing to any, not even that it has them."""

    def __init__(self) -> None:
        self.called = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def ChatStream(self, *_: object) -> AsyncIterator[pb.ChatStreamResponse]:
        """Wait."""
        self.called.set()
        try:
            yield await asyncio.Future[pb.ChatStreamResponse]()
        finally:
            self.cancelled.set()


@pytest.mark.parametrize("by", ["call", "task"])
async def test_a_block_that_is_not_entered_leaves_no_call(kind: str, by: str) -> None:
    """`cancel`, and the end of the task that enters, end the call before its admission, too."""
    server = grpc.aio.server()
    silent = Silent()  # type: ignore[abstract]  # one method is enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(silent, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with calling(kind, f"127.0.0.1:{port}") as caller:
        stream = caller.client.stream("x")
        is_async = kind.startswith("async")
        entering = asyncio.ensure_future(
            stream.__aenter__() if is_async else asyncio.to_thread(stream.__enter__)
        )
        await silent.called.wait()
        (entering if by == "task" and is_async else stream).cancel()
        async with asyncio.timeout(5):
            await silent.cancelled.wait()
        with pytest.raises((talkwire.Cancelled, asyncio.CancelledError)):
            await entering
        assert (stream.id, entering.cancelled()) == ("", by == "task" and is_async)
    await server.stop(None)


class Holding(Multiplexing):
    """Takes calls, interrupts the main thread, and waits until they are cancelled."""

    def __init__(self) -> None:
        self.cancelled = Event()

    def ChatStream(self, _: object, context: Any) -> Iterator[pb.ChatStreamResponse]:
        context.add_callback(self.cancelled.set)
        sleep(0.5)  # so that the client is done with sending, and waits
        os.kill(os.getpid(), signal.SIGINT)  # which wakes who waits for a lock, too
        self.cancelled.wait()
        yield pb.ChatStreamResponse()


def test_ctrl_c_before_the_admission_leaves_no_call() -> None:
    """A KeyboardInterrupt while the block is entered ends the call on the server."""
    server = grpc.server(ThreadPoolExecutor(2))
    holding = Holding()  # type: ignore[abstract]  # one method is enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(holding, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with Client(f"127.0.0.1:{port}") as client:
        stream = client.stream("x")
        with pytest.raises(KeyboardInterrupt):
            stream.__enter__()
        assert holding.cancelled.wait(5)
    server.stop(None).wait()


async def test_a_stream_that_is_cancelled_before_its_block_stays_so(client: Any) -> None:
    """Whoever cancels does not have to know how far the other has come."""
    stream = client.client.stream("x")
    stream.cancel()

    async def read() -> None:
        async with stream:
            await stream.wait()

    def read_sync() -> None:
        with stream:
            stream.wait()

    reading = read() if hasattr(stream, "__aenter__") else asyncio.to_thread(read_sync)
    with pytest.raises(talkwire.Cancelled):
        await reading


async def test_stop_keeps_the_answer(slow_client: Any, slow_echo: RunningServer) -> None:
    """The answer so far, complete with usage; nothing runs on."""
    async with slow_client.stream("word " * 500) as stream:
        await anext(aiter(stream))
        answer = await stream.stop()

    assert (answer.finish_reason, answer.complete) == ("aborted", True)
    assert 1 <= answer.usage.completion_tokens < 500
    assert len(answer.text.split()) == answer.usage.completion_tokens
    assert slow_echo.engine.unfinished == 0


async def test_an_answer_is_aborted_from_anywhere(slow_client: Any) -> None:
    """By its id; the reader gets what there is. What does not run is not found."""
    async with slow_client.stream("word " * 500, request_id="elsewhere") as stream:
        await anext(aiter(stream))
        assert await slow_client.call("abort", "elsewhere")
        assert (await stream.wait()).finish_reason == "aborted"

    assert not await slow_client.call("abort", "elsewhere")
    with pytest.raises(talkwire.InvalidRequest):
        await slow_client.call("abort", "")


async def test_a_time_limit_ends_an_answer_well(slow_client: Any) -> None:
    """After that many seconds the answer is whole, though not at its end."""
    answer = await slow_client.chat("word " * 500, time_limit=0.2)

    assert (answer.finish_reason, answer.complete) == ("time_limit", True)
    assert 0 < answer.usage.completion_tokens < 500


async def test_tokens_are_counted_without_an_answer(client: Any) -> None:
    """As many as the answer's usage says; on demand with the prompt and its ids."""
    count = await client.call("count_tokens", "a b", system="s")
    shown = await client.call(
        "count_tokens", ["a b"], system="s", include_prompt=True, include_token_ids=True
    )

    assert count == pb.CountTokensResponse(prompt_tokens=3, max_context_tokens=8192)
    assert (shown.prompt, list(shown.token_ids)) == ("system: s\nuser: a b", [0, 1, 2])
    assert (await client.chat("a b", system="s")).usage.prompt_tokens == 3
    with pytest.raises(talkwire.InvalidRequest):
        await client.call("count_tokens", "a", temperature=-1)


@pytest.mark.parametrize("include", [EVERYTHING, {"token_ids": True}, {}])
async def test_a_broken_answer_goes_on(slow_client: Any, client: Any, include: Any) -> None:
    """However often: both clients hold the whole, which is the unbroken one, field by field."""
    options = {"include": include, "system": "", "request_id": "same"}
    query, folded, said = "a b c d e", Accumulator(), []
    answer: Any = None
    chatted: Any = None
    for until in ("a b", "a b c", ""):
        async with slow_client.stream(query, **options, continuation=answer) as stream:
            async for chunk in stream:
                folded.add(chunk.proto)
                said.append(chunk.text)
                if stream.answer.text == until:
                    break
        answer = stream.answer
        options["include"] = {**include, "prompt_logprobs": None}
        chatted = chatted or await client.chat(query, **options, continuation=answer)
    unbroken = await client.chat(query, **{**options, "include": include})

    assert said == ["a", " b", " c", " d", " e", ""]
    for whole in (answer.proto, folded.response, chatted.proto):
        assert whole.timing.HasField("total")
        whole.timing.CopyFrom(unbroken.proto.timing)
        assert whole == unbroken.proto


async def test_an_error_leaves_what_a_continuation_needs(slow_client: Any) -> None:
    """`error.partial` goes on where the stream broke."""
    options: dict[str, Any] = {"include": {"token_ids": True}}
    words = " ".join(map(str, range(50)))  # a second
    async with slow_client.stream(words, timeout=0.6, **options) as stream:
        with pytest.raises(talkwire.Timeout) as caught:
            await stream.wait()
    assert caught.value.partial
    rest = await slow_client.chat(words, continuation=caught.value.partial, **options)

    assert words.startswith(caught.value.partial.text)
    assert (rest.text, rest.token_ids) == (words, [*range(50)])


async def test_what_a_continuation_begins_with_is_never_lost(slow_client: Any, kind: str) -> None:
    """Whatever fails, of `chat` as of a stream, `error.partial` holds it; also of no connection."""
    options: dict[str, Any] = {"include": {"token_ids": True}}
    async with slow_client.stream("a b c d e", **options) as stream:
        await anext(aiter(stream))
        begun = stream.answer
    for fault in ({"timeout": 0.05}, {"temperature": -1}):
        with pytest.raises(talkwire.Error) as caught:
            await slow_client.chat("a b c d e", continuation=begun, **options, **fault)
        assert caught.value.partial
        assert caught.value.partial.text.startswith("a")
        assert not caught.value.partial.complete
    async with calling(kind, "127.0.0.1:1", connect_timeout=0.2) as nobody:
        with pytest.raises(talkwire.ConnectError, match="no connection") as caught:
            await nobody.chat("a b c d e", continuation=begun)
    assert caught.value.partial
    assert (caught.value.partial.text, caught.value.partial.token_ids) == ("a", [0])


async def test_a_continued_call_folds_to_the_whole_one(client: Any) -> None:
    """Also where it broke within thoughts or the arguments of a call."""
    options: dict[str, Any] = {
        "tools": [{"name": "f"}],
        "reasoning": "low",
        "include": {"token_ids": True},
    }
    query = 'f({"a": [1, 2], "b": 3})'
    whole = await client.chat(query, **options)
    for at in range(1, len(whole.token_ids)):
        rest = await client.chat(query, continuation=whole.token_ids[:at], **options)
        assert rest.token_ids == whole.token_ids[at:]
        assert whole.reasoning.endswith(rest.reasoning)
        async with client.stream(query, **options) as stream:
            while len(stream.answer.token_ids) < at:
                await anext(aiter(stream))
        both = await client.chat(query, continuation=stream.answer, **options)
        assert both.token_ids == whole.token_ids
        assert (both.reasoning, len(both.tool_calls)) == (whole.reasoning, 1)
        assert both.tool_calls[0].arguments == whole.tool_calls[0].arguments
    folded, deltas = Accumulator(), []
    async with client.stream(query, **options) as stream:
        deltas = [chunk.proto async for chunk in stream]
    for delta in (*deltas[:7], make(pb.ChatStreamResponse, id="other", model="echo"), *deltas[7:]):
        folded.add(delta)
    assert folded.response.message == stream.answer.message


async def test_defaults_of_a_client_are_its_callers(kind: str, echo: RunningServer) -> None:
    """`options` are read and changed freely."""
    async with calling(kind, echo.target, max_tokens=1) as caller:
        assert caller.client.options == {"max_tokens": 1}
        caller.client.options["max_tokens"] = 2
        assert (await caller.chat("a b c")).text == "a b"


@pytest.mark.parametrize("keep", [True, False])
async def test_a_turn_left_early_is_kept_on_demand(slow_client: Any, kind: str, keep: bool) -> None:
    """`keep_partial` adds what was said until then."""
    conversation = slow_client.client.conversation()

    async def leave() -> None:
        if kind.startswith("async"):
            async with conversation.stream("a b c", keep_partial=keep) as stream:
                async for _ in stream:
                    break
        else:
            await asyncio.to_thread(leave_sync)

    def leave_sync() -> None:
        with conversation.stream("a b c", keep_partial=keep) as stream:
            for _ in stream:
                break

    await leave()
    assert [m.text for m in conversation.messages] == (["a b c", "a"] if keep else [])


def test_halves_of_calls_do_not_go_into_the_history() -> None:
    """No server would take them back. The answer itself has them."""
    conversation = Client().conversation()
    message = {"text": "t", "tool_calls": [{"id": "c", "arguments": "{"}]}
    for reason in (0, pb.FINISH_REASON_LENGTH, pb.FINISH_REASON_ABORTED):
        answer = talkwire.Answer(make(pb.ChatResponse, message=message, finish_reason=reason))
        conversation.add("q", answer)
        assert conversation.messages[-1] == pb.Message(text="t")
        assert answer.tool_calls
