"""What the echo engine says, and when: what no table of fields can tell."""

import asyncio
from collections.abc import AsyncIterator
from time import monotonic
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from support import RunningServer, make, running
from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.echo import EchoEngine

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub

TOOLS = [{"function": {"name": "add"}}, {"function": {"name": "find"}}]
THINK = {"effort": pb.Reasoning.EFFORT_HIGH}
MODE = pb.ToolChoice


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> "ChatServiceAsyncStub":
    return ChatServiceStub(channel)


@pytest.fixture
async def patient() -> AsyncIterator["ChatServiceAsyncStub"]:
    """An echo engine that takes a minute a word."""
    engine = EchoEngine(["echo"], "", 60)
    async with running(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        yield ChatServiceStub(channel)


def asked(query: str = "", **fields: Any) -> pb.ChatRequest:
    return make(pb.ChatRequest, query=query, **{"system": "", **fields})


async def streamed(
    stub: "ChatServiceAsyncStub", request: pb.ChatRequest
) -> list[pb.ChatStreamResponse]:
    return [delta async for delta in stub.ChatStream(request)]


def folded(deltas: list[pb.ChatStreamResponse]) -> pb.ChatResponse:
    answer = Accumulator()
    for delta in deltas:
        answer.add(delta)
    return answer.response


async def refusal(stub: "ChatServiceAsyncStub", request: pb.ChatRequest) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Chat(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value.details() or ""


async def test_a_call_comes_in_pieces(stub: "ChatServiceAsyncStub") -> None:
    """Id and name come with the first piece of a call, and only there."""
    deltas = await streamed(stub, asked(' add({"a": 1, "b": 2})\n', tools=TOOLS, request_id="r"))

    assert [(d.tool_calls[0].id, d.tool_calls[0].name) for d in deltas[:-1]] == [
        ("call-r-0", "add"),
        ("", ""),
        ("", ""),
        ("", ""),
    ]
    assert [d.tool_calls[0].arguments for d in deltas[:-1]] == ['{"a":', " 1,", ' "b":', " 2}"]
    assert deltas[-1].finish_reason == pb.FINISH_REASON_TOOL_CALLS
    assert not any(delta.text for delta in deltas)


@pytest.mark.parametrize(
    ("query", "choice", "called"),
    [
        ("find({})", {}, ("find", "{}")),
        ("find({})", {"mode": MODE.MODE_AUTO}, ("find", "{}")),
        ("find({})", {"mode": MODE.MODE_NONE}, None),
        ("lose({})", {}, None),
        ("find([])", {}, None),
        ("find({)", {}, None),
        ("please find({})", {}, None),
        ('{"a": 1}', {"mode": MODE.MODE_REQUIRED}, ("add", '{"a": 1}')),
        ('{"a": 1}', {"function": "find"}, ("find", '{"a": 1}')),
        ("[1]", {"function": "find"}, ("find", "{}")),
    ],
)
async def test_when_it_calls(
    stub: "ChatServiceAsyncStub", query: str, choice: dict[str, Any], called: tuple[str, str] | None
) -> None:
    """A message that reads as a call of a tool is one; a forced call takes the message along."""
    answer = await stub.Chat(asked(query, tools=TOOLS, tool_choice=choice))
    calls = [(call.name, call.arguments) for call in answer.message.tool_calls]

    assert calls == ([called] if called else [])
    assert answer.message.text == ("" if called else query)


async def test_it_says_what_a_tool_said(stub: "ChatServiceAsyncStub") -> None:
    """A tool's result at the end is said, even if it reads as a call; an earlier one is not."""
    call = {"id": "1", "name": "add"}
    turns = [
        {"text": "x"},
        {"role": pb.ROLE_ASSISTANT, "tool_calls": [call]},
        {"role": pb.ROLE_TOOL, "tool_call_id": "1", "text": "add({})"},
    ]
    assert (await stub.Chat(asked(messages=turns, tools=TOOLS))).message.text == "add({})"
    turns.append({"role": pb.ROLE_ASSISTANT, "text": "3"})
    assert (await stub.Chat(asked(messages=turns, tools=TOOLS))).message.text == "x"
    only = [{"role": pb.ROLE_SYSTEM, "text": "x"}]
    assert (await stub.Chat(asked(messages=only))).message.text == ""


async def test_answers_come_in_step(stub: "ChatServiceAsyncStub") -> None:
    """Each of n has index and end; the first message has the prompt, the last the usage."""
    request = asked(
        "a b",
        n=3,
        reasoning={**THINK, "max_tokens": 1},
        include={"token_ids": True, "logprobs": 0, "prompt_token_ids": True},
    )
    deltas = await streamed(stub, request)

    said = [(d.index, d.reasoning, d.text, list(d.token_ids)) for d in deltas]
    assert said == [
        *((i, "a", "", [0]) for i in range(3)),
        *((i, "", "a", [1]) for i in range(3)),
        *((i, "", " b", [2]) for i in range(3)),
        *((i, "", "", []) for i in range(3)),
    ]
    assert [d.finish_reason for d in deltas] == [0] * 9 + [pb.FINISH_REASON_STOP] * 3
    assert [bool(d.id) for d in deltas] == [True] + [False] * 11
    assert [list(d.prompt_token_ids) for d in deltas] == [[0, 1]] + [[]] * 11
    assert [d.HasField("usage") for d in deltas] == [False] * 11 + [True]
    usage = deltas[-1].usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.reasoning_tokens) == (2, 9, 3)
    assert deltas[4].logprobs[0] == pb.TokenLogprob(token_id=1, token="a", logprob=0, rank=1)


async def test_excluded_thoughts_are_counted_alone(stub: "ChatServiceAsyncStub") -> None:
    """They cost tokens and no messages."""
    deltas = await streamed(stub, asked("a b", reasoning={**THINK, "exclude": True}))

    assert [(d.text, d.reasoning) for d in deltas] == [("a", ""), (" b", ""), ("", "")]
    assert (deltas[-1].usage.completion_tokens, deltas[-1].usage.reasoning_tokens) == (4, 2)


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        ({}, pb.FINISH_REASON_LENGTH, ("a b c", "a b")),
        ({"sampling": {"max_tokens": 2}}, pb.FINISH_REASON_LENGTH, ("a b", "")),
        ({"sampling": {"stop": ["b"]}}, pb.FINISH_REASON_STOP, ("a b c d", "a ")),
        (
            {"sampling": {"max_tokens": 7, "stop": ["d"]}},
            pb.FINISH_REASON_LENGTH,
            ("a b c d", "a b c"),
        ),
    ],
)
async def test_limits_hold_for_thoughts_and_words(
    stub: "ChatServiceAsyncStub", fields: dict[str, Any], reason: int, said: tuple[str, str]
) -> None:
    """`max_tokens` counts both; stop words are looked for in what is said."""
    request = asked("a b c d", reasoning=THINK, **fields)
    if not fields:
        request.reasoning.max_tokens = 3
        request.sampling.max_tokens = 5
    answer = await stub.Chat(request)

    assert (answer.message.reasoning, answer.message.text) == said
    assert answer.finish_reason == reason


async def test_a_call_that_is_cut(stub: "ChatServiceAsyncStub") -> None:
    """A call without its end is no reason to call: the answer was too long."""
    answer = await stub.Chat(asked('add({"a": 1})', tools=TOOLS, sampling={"max_tokens": 1}))

    assert answer.message.tool_calls[0].arguments == '{"a":'
    assert answer.finish_reason == pb.FINISH_REASON_LENGTH


async def test_it_says_only_json_that_it_is_given(stub: "ChatServiceAsyncStub") -> None:
    """What is no JSON is refused where it stands, with all other faults."""
    anything, some = {"json_object": True}, {"json_schema": "{}"}
    rule = "and the echo engine says only JSON that it is given"
    assert await refusal(stub, asked("[1]", output_format=anything)) == (
        f"query: must be JSON of an object, {rule}"
    )
    assert (await stub.Chat(asked("[1]", output_format=some))).message.text == "[1]"
    turns = [{"text": "x"}, {"role": pb.ROLE_ASSISTANT}]
    assert await refusal(stub, asked(messages=turns, output_format=some, n=129)) == (
        f"messages[0].text: is not JSON at character 0, {rule}; n: must be <= 128, got 129"
    )
    shown = [{"parts": [{"image": {"data": b"x"}}]}]
    assert (await refusal(stub, asked(messages=shown, output_format=some))).startswith(
        "messages[0].parts: is not JSON at character 1"
    )


async def test_the_prompt_is_the_conversation(stub: "ChatServiceAsyncStub") -> None:
    """CountTokens writes it down; usage, token ids and log-probabilities agree with it."""
    request = make(
        pb.ChatRequest,
        query="and  now?",
        messages=[
            {"parts": [{"text": "What is"}, {"image": {"data": b"abc", "mime_type": "image/png"}}]},
            {"role": pb.ROLE_ASSISTANT, "tool_calls": [{"id": "1", "name": "find"}]},
            {"role": pb.ROLE_TOOL, "tool_call_id": "1"},
        ],
        include={"prompt_token_ids": True, "prompt_logprobs": 0},
    )
    count = await stub.CountTokens(
        pb.CountTokensRequest(request=request, include_prompt=True, include_token_ids=True)
    )
    answer = await stub.Chat(request)

    assert count.prompt == (
        "system: Be brief.\nuser: What is\n[image/png 3 bytes]\nassistant: find()\ntool: \n"
        "user: and  now?"
    )
    assert count.prompt_tokens == answer.usage.prompt_tokens == len(answer.prompt_token_ids) == 9
    assert count.max_context_tokens == 8192
    assert count.token_ids == answer.prompt_token_ids == list(range(9))
    assert "".join(token.token for token in answer.prompt_logprobs) == count.prompt
    assert [token.HasField("logprob") for token in answer.prompt_logprobs] == [False] + [True] * 8
    assert answer.usage.media_tokens == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"query": "one two  three\nfour "},
        {"query": "one two three", "sampling": {"stop": ["re"], "max_tokens": 9}},
        {"query": "a b c d e", "sampling": {"max_tokens": 3}},
        {"query": 'add({"a": 1, "b": 2})', "tools": TOOLS},
        {"query": "a b c", "reasoning": THINK},
        {"query": 'add({"a": 1})', "tools": TOOLS, "reasoning": THINK},
    ],
)
async def test_broken_and_continued_is_unbroken(
    stub: "ChatServiceAsyncStub", fields: dict[str, Any]
) -> None:
    """Wherever an answer breaks off, both parts together are the whole one, in count, too."""
    request = asked(**fields, request_id="r", include={"token_ids": True, "logprobs": 0})
    deltas = await streamed(stub, request)
    whole = folded(deltas)
    whole.ClearField("timing")
    for end in range(1, len(deltas)):
        part = folded(deltas[:end])
        again = pb.ChatRequest()
        again.CopyFrom(request)
        again.continuation.token_ids.extend(part.token_ids)
        both = folded(deltas[:end] + await streamed(stub, again))
        both.ClearField("timing")

        assert both == whole


async def test_a_text_can_be_continued(stub: "ChatServiceAsyncStub") -> None:
    """Also amid a word; but not where thoughts or calls may be part of the answer."""
    text = "one two  three "
    for end in range(1, len(text) + 1):
        answer = await stub.Chat(asked(text, continuation={"text": text[:end]}))

        assert answer.message.text == text[end:]
        assert answer.usage.completion_tokens == 4
    for fields in ({"tools": TOOLS}, {"reasoning": THINK}):
        with pytest.raises(grpc.aio.AioRpcError, match=r"continuation\.text"):
            await stub.Chat(asked(text, continuation={"text": "one"}, **fields))


async def test_a_time_limit_ends_an_answer(
    patient: "ChatServiceAsyncStub", slow_echo: RunningServer
) -> None:
    """However long the next word takes; what was said stays, and is counted."""
    started = monotonic()
    nothing = await patient.Chat(asked("a b", n=2, time_limit={"nanos": 10**8}))
    async with grpc.aio.insecure_channel(slow_echo.target) as channel:
        stub = ChatServiceStub(channel)
        request = asked("word " * 500, time_limit={"nanos": 3 * 10**8})
        some = folded(await streamed(stub, request))

    assert monotonic() - started < 30
    assert nothing.finish_reason == pb.FINISH_REASON_TIME_LIMIT
    assert nothing.alternatives[0].finish_reason == pb.FINISH_REASON_TIME_LIMIT
    assert nothing.usage == pb.Usage(prompt_tokens=2)
    assert some.finish_reason == pb.FINISH_REASON_TIME_LIMIT
    assert 0 < some.usage.completion_tokens == len(some.message.text.split()) < 500


async def test_an_abort_ends_an_answer(patient: "ChatServiceAsyncStub") -> None:
    """The answer finishes at once, for its own caller; what is not running is not found."""
    stream = patient.ChatStream(asked("a b", request_id="mine"))
    await stream.initial_metadata()
    assert (await patient.Abort(pb.AbortRequest(id="mine"))).found
    async with asyncio.timeout(30):
        (last,) = [delta async for delta in stream]

    assert (last.id, last.finish_reason) == ("mine", pb.FINISH_REASON_ABORTED)
    assert last.usage.completion_tokens == 0
    assert not (await patient.Abort(pb.AbortRequest(id="mine"))).found
