"""The contract, as both clients see it on the echo engine."""

import asyncio
from typing import Any

import grpc
import pytest

import talkwire
from support import RunningServer, calling
from talkwire_proto.v1 import chat_pb2 as pb

QUERY = "one two  three\nfour"


async def test_a_chat_is_answered_whole(client: Any) -> None:
    """`chat` returns text, reason, usage, timing, id and model."""
    answer = await client.chat(QUERY)

    assert QUERY == str(answer) == answer.text
    assert (answer.finish_reason, answer.stopped_by) == ("stop", None)
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (6, 4)
    assert 0 <= answer.timing.queue <= answer.timing.first_token <= answer.timing.total
    assert (answer.model, len(answer.id)) == ("echo", 32)
    assert answer.message.role == pb.ROLE_ASSISTANT
    assert answer.complete
    assert f"<Answer {QUERY!r} stop, 6 tokens in, 4 out>" == repr(answer)


async def test_a_stream_comes_word_by_word_and_adds_up_to_the_answer(client: Any) -> None:
    """Concatenated chunks equal the unary answer; only the ends carry what is not text."""
    async with client.stream(QUERY) as stream:
        chunks = [chunk async for chunk in stream]

    assert [str(chunk) for chunk in chunks] == ["one", " two", "  three", "\nfour", ""]
    assert [bool(chunk.proto.id) for chunk in chunks] == [True, False, False, False, False]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, None, None, "stop"]
    assert [chunk.proto.HasField("usage") for chunk in chunks] == [False] * 4 + [True]
    assert (await client.chat(QUERY)).text == stream.answer.text
    assert chunks[0].proto.id == stream.id == stream.answer.id
    assert (chunks[0].index, chunks[0].reasoning, repr(chunks[0])) == (0, "", "<Chunk 'one'>")


@pytest.mark.parametrize(
    "text", ["naïve café ☕", "こんにちは 世界", "Привет 👩‍👩‍👧 мир", "مرحبا بالعالم"]
)
async def test_multi_byte_text_comes_through_unchanged(client: Any, text: str) -> None:
    """What goes in as UTF-8 comes out as the same characters."""
    async with client.stream(text) as stream:
        answer = await stream.wait()

    assert text == answer.text == (await client.chat(text)).text


async def test_a_stop_word_is_cut_and_named(client: Any) -> None:
    """The stop word and what follows are not in the text; `stopped_by` names it."""
    answer = await client.chat("red green blue", stop="gre")

    assert (answer.text, answer.finish_reason, answer.stopped_by) == ("red ", "stop", "gre")
    kept = await client.chat("red green blue", stop=["x", "gre"], include_stop=True)
    assert kept.text == "red gre"


async def test_max_tokens_ends_the_answer(client: Any) -> None:
    """An answer that is cut says so."""
    answer = await client.chat("a b c d", max_tokens=2)

    assert (
        answer.text,
        answer.finish_reason,
        answer.usage.completion_tokens,
    ) == ("a b", "length", 2)


async def test_history_and_system_count_as_prompt(client: Any) -> None:
    """System, messages and query make the prompt; an empty system means none."""
    history = [
        {"role": "user", "content": "a b"},
        {"role": "assistant", "text": "c"},
        pb.Message(text="d e"),
    ]

    assert (await client.chat(messages=history, system="")).usage.prompt_tokens == 5
    assert (await client.chat(messages=history)).text == "d e"
    assert (await client.chat(messages=history)).usage.prompt_tokens == 2 + 5
    assert (await client.chat("f", messages=history, system="x y z")).usage.prompt_tokens == 3 + 6
    own = [{"role": "system", "text": "s"}, *history]
    assert (await client.chat(messages=own)).usage.prompt_tokens == 1 + 5


async def test_every_fault_is_named_at_once(client: Any) -> None:
    """One INVALID_ARGUMENT names all the bad fields."""
    with pytest.raises(talkwire.InvalidRequest) as caught:
        await client.chat("x", temperature=-1, top_p=1.5, stop=[""], request_id="a b")

    error = caught.value
    assert grpc.StatusCode.INVALID_ARGUMENT is error.code
    assert error.reason == "INVALID_FIELD"
    assert [violation.field for violation in error.violations] == [
        "request_id",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.stop[0]",
    ]
    assert error.violations[1].description == "must be in [0, 2], got -1"
    assert error.request_id


async def test_too_long_a_prompt_is_refused_with_both_numbers(client: Any) -> None:
    """CONTEXT_LENGTH_EXCEEDED tells how long the prompt is and what there is room for."""
    with pytest.raises(talkwire.ContextLengthExceeded) as caught:
        await client.chat("x " * 9000, system="")

    assert (caught.value.prompt_tokens, caught.value.max_context_tokens) == (9001, 8192)


async def test_an_unknown_model_is_refused_with_the_known_ones(client: Any) -> None:
    """MODEL_NOT_FOUND lists what there is."""
    with pytest.raises(talkwire.ModelNotFound) as caught:
        await client.chat("x", model="gpt")

    assert caught.value.available == ["echo"]


async def test_a_refused_stream_is_not_entered(client: Any) -> None:
    """The same errors come where its block is entered, with the (empty) answer so far."""
    with pytest.raises(talkwire.ModelNotFound) as caught:
        async with client.stream("x", model="gpt"):
            pytest.fail("entered")

    assert caught.value.partial
    assert caught.value.partial.text == ""
    assert not caught.value.partial.complete


async def test_a_running_request_id_is_taken(slow_client: Any) -> None:
    """REQUEST_ID_IN_USE while the call runs; free again afterwards."""
    async with slow_client.stream("word " * 500, request_id="mine") as stream:
        await anext(aiter(stream))
        with pytest.raises(talkwire.RequestIdInUse):
            await slow_client.chat("x", request_id="mine")
        assert (await stream.stop()).id == "mine"

    assert (await slow_client.chat("x", request_id="mine")).id == "mine"


async def test_a_request_id_may_travel_as_metadata(client: Any) -> None:
    """`x-request-id` names the request, unless the request names itself or it is malformed."""
    assert (await client.chat("x", metadata={"x-request-id": "m-1"})).id == "m-1"
    both = await client.chat("x", request_id="r-1", metadata={"x-request-id": "m-1"})
    assert both.id == "r-1"
    assert len((await client.chat("x", metadata={"x-request-id": "no good"})).id) == 32


async def test_a_deadline_ends_the_call(slow_client: Any, slow_echo: RunningServer) -> None:
    """`timeout` raises `Timeout`, a TimeoutError, with what came; the server stops too."""
    async with slow_client.stream("word " * 500, timeout=1) as stream:
        with pytest.raises(TimeoutError) as caught:
            await stream.wait()

    assert isinstance(caught.value, talkwire.Timeout)
    assert caught.value.partial
    assert caught.value.partial.text.startswith("word")
    await asyncio.wait_for(slow_echo.server.admission.empty(), 5)


async def test_cancel_ends_a_stream_with_cancelled(
    slow_client: Any, slow_echo: RunningServer
) -> None:
    """`cancel` frees the server; reading on raises `Cancelled`, not asyncio's CancelledError."""
    async with slow_client.stream("word " * 500) as stream:
        await anext(aiter(stream))
        stream.cancel()
        with pytest.raises(talkwire.Cancelled) as caught:
            await stream.wait()

    assert caught.value.partial
    assert caught.value.partial.text.split()[0] == "word"
    await asyncio.wait_for(slow_echo.server.admission.empty(), 5)


@pytest.mark.parametrize("how", ["break", "exception"])
async def test_leaving_the_block_cancels(
    slow_client: Any, slow_echo: RunningServer, how: str
) -> None:
    """However the block is left, the engine's request ends."""
    try:
        async with slow_client.stream("word " * 500) as stream:
            async for _ in stream:
                assert slow_echo.engine.unfinished == 1
                if how == "exception":
                    raise KeyError(how)
                break
    except KeyError:
        pass

    await asyncio.wait_for(slow_echo.server.admission.empty(), 5)
    assert slow_echo.engine.unfinished == 0


async def test_a_stream_outside_its_block_says_so(kind: str, echo: RunningServer) -> None:
    """Reading a stream that was not entered is refused with what to write instead."""
    async with calling(kind, echo.target) as caller:
        stream = caller.client.stream("x")
        with pytest.raises(RuntimeError, match=r"with client\.stream"):
            await anext(stream) if kind.startswith("async") else next(stream)
        stream.cancel()

    assert stream.answer.text == ""


async def test_a_conversation_remembers(client: Any) -> None:
    """Each turn sends the history and is added to it; a failed one is not."""
    conversation = client.client.conversation(system="s")
    await _send(client, conversation, "a b")
    answer = await _send(client, conversation, "c")

    assert [message.text for message in conversation.messages] == ["a b", "a b", "c", "c"]
    assert answer.usage.prompt_tokens == 1 + 2 + 2 + 1
    assert (conversation.usage.prompt_tokens, conversation.usage.completion_tokens) == (3 + 6, 3)
    with pytest.raises(talkwire.InvalidRequest):
        await _send(client, conversation, "d", temperature=-1)
    assert len(conversation.messages) == 4


async def _send(client: Any, conversation: Any, query: str, **options: Any) -> talkwire.Answer:
    if asyncio.iscoroutinefunction(conversation.send):
        answer: talkwire.Answer = await conversation.send(query, **options)
        return answer
    return await asyncio.to_thread(conversation.send, query, **options)


async def test_models_are_described(client: Any) -> None:
    """`models` lists, `model` describes one, the default one without a name."""
    (listed,) = await client.call("models")

    assert listed == await client.call("model") == await client.call("model", "echo")
    assert (
        listed.id,
        listed.max_context_tokens,
        list(listed.input_modalities),
    ) == ("echo", 8192, ["text", "image", "audio", "video"])
    with pytest.raises(talkwire.ModelNotFound):
        await client.call("model", "gpt")


async def test_ready_tells_whether_the_server_serves(client: Any, kind: str) -> None:
    """`ready` asks the server's health; where nobody listens it gives up in time."""
    assert await client.call("ready")
    assert await client.call("ready", timeout=5.0)
    async with calling(kind, "127.0.0.1:1") as nobody:
        assert not await nobody.call("ready", timeout=0.6)


async def test_no_server_is_a_connect_error_that_names_the_target(kind: str) -> None:
    """Without a server the connection is waited for, then `ConnectError` names the target."""
    async with calling(kind, "127.0.0.1:1", connect_timeout=0.2) as caller:
        with pytest.raises(talkwire.ConnectError, match=r"no connection to 127\.0\.0\.1:1 within"):
            await caller.chat("x")
        with pytest.raises(talkwire.ConnectError):
            await caller.call("models")
        with pytest.raises(talkwire.ConnectError):
            async with caller.stream("x") as stream:
                await stream.wait()


async def test_without_waiting_no_server_fails_at_once(kind: str) -> None:
    """`wait_for_ready=False` and no retries: the first refusal is the answer."""
    async with calling(kind, "127.0.0.1:1", wait_for_ready=False, retry=None) as caller:
        with pytest.raises(talkwire.ConnectError, match=r"no connection to 127\.0\.0\.1:1: "):
            await caller.chat("x")


async def test_unknown_options_are_all_named(client: Any) -> None:
    """A typo in an option is a TypeError that names every one."""
    with pytest.raises(TypeError, match="unknown options: heat, tmeperature"):
        await client.chat("x", tmeperature=1, heat=2)


def test_a_request_has_no_timeout() -> None:
    """It belongs to a call, where the request goes later: it is not dropped, but an error."""
    with pytest.raises(TypeError, match="unknown options: metadata, timeout"):
        talkwire.Client().request("x", timeout=1, metadata={})  # type: ignore[call-arg]


async def test_defaults_of_the_client_hold_for_every_call(kind: str, echo: RunningServer) -> None:
    """Options given to the client are each call's, unless the call has its own."""
    async with calling(kind, echo.target, max_tokens=1, system="") as caller:
        assert (await caller.chat("a b c")).text == "a"
        assert (await caller.chat("a b c", max_tokens=2)).text == "a b"


async def test_a_request_of_ones_own_can_be_sent(client: Any) -> None:
    """`send` takes a ChatRequest; what the server does not support is refused by name."""
    assert (await client.call("send", pb.ChatRequest(query="hi"))).text == "hi"
    request = pb.ChatRequest(query="hi", priority=2, sampling=pb.Sampling(bad_words=["x"]))
    with pytest.raises(
        talkwire.Unsupported,
        match=r"sampling.bad_words, priority$",
    ) as caught:
        await client.call("send", request)

    assert caught.value.reason == "UNSUPPORTED_FEATURE"


async def test_however_many_faults_they_arrive(client: Any) -> None:
    """A status stays within what gRPC carries: it names the first faults, and how many more."""
    with pytest.raises(talkwire.InvalidRequest) as caught:
        await client.chat("x", messages=[{"role": "tool"}] * 300)
    assert len(caught.value.violations) == 32
    assert caught.value.message.endswith("and 268 more")

    with pytest.raises(talkwire.ModelNotFound):
        await client.chat("x", model="m" * 20_000)
    unknown = pb.Message.FromString(b"\x12\x01x\xf8\x01\x01")
    with pytest.raises(talkwire.Unsupported, match="and 268 more"):
        await client.chat("x", messages=[unknown] * 300)


async def test_fields_of_a_newer_contract_are_refused(client: Any) -> None:
    """What this server does not know is named by its number, not ignored."""
    request = pb.ChatRequest.FromString(
        pb.ChatRequest(query="x").SerializeToString() + b"\xaa\x01\x00"
    )
    with pytest.raises(talkwire.Unsupported, match="field 21"):
        await client.call("send", request)


async def test_too_large_a_message_is_the_requests_fault(client: Any) -> None:
    """GRPC's refusal of a message over the limit is no overload."""
    with pytest.raises(talkwire.InvalidRequest, match="larger than max"):
        await client.chat("x" * (17 << 20))


async def test_waiting_for_a_connection_takes_of_the_timeout(kind: str) -> None:
    """A call without a server fails within its own timeout, if that is shorter."""
    async with calling(kind, "127.0.0.1:1", connect_timeout=60) as caller:
        with pytest.raises(talkwire.ConnectError, match="within 0"):
            await caller.chat("x", timeout=0.3)


async def test_a_conversation_sends_its_own_messages(client: Any) -> None:
    """Other messages are refused, not dropped; a turn without a question adds none."""
    conversation = client.client.conversation([{"text": "a"}])
    with pytest.raises(TypeError, match="its own messages"):
        await _send(client, conversation, "x", messages=[])
    with pytest.raises(TypeError, match="holds whole answers"):
        await _send(client, conversation, "x", continuation=[1])
    await _send(client, conversation, "")

    assert [message.text for message in conversation.messages] == ["a", "a"]
