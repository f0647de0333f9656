"""An answer that broke off goes on exactly there, on the real engine in float32."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from support import RunningServer, make, running
from talkwire import Accumulator, AsyncClient, InvalidRequest, Unsupported
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.errors import ContextLengthExceeded

pytestmark = pytest.mark.timeout(300)

TOOL = {"function": {"name": "paint"}}
CALL = '<tool_call>\n{"name": "paint", "arguments": {"color": "red", "size": [1, 2]}}\n</tool_call>'


def ask(query: str, **fields: Any) -> pb.ChatRequest:
    sampling = {"temperature": 0, "max_tokens": 40, **fields.pop("sampling", {})}
    include = {"token_ids": True}
    return make(pb.ChatRequest, query=query, include=include, sampling=sampling, **fields)


def folded(deltas: Iterable[pb.ChatStreamResponse]) -> pb.ChatResponse:
    """Fold two halves into one answer, without what is the second half's own."""
    answer = Accumulator()
    for delta in deltas:
        answer.add(delta)
    response = answer.response
    for name in ("id", "model", "timing"):
        response.ClearField(name)
    response.usage.cached_tokens = 0
    for call in response.message.tool_calls:
        call.ClearField("id")
    return response


async def broken_everywhere(
    llm: AsyncClient, request: pb.ChatRequest, every: int = 1
) -> tuple[pb.ChatResponse, Sequence[pb.ChatResponse]]:
    """Return the unbroken answer, and those broken after each of its messages and continued."""
    deltas = [delta async for delta in llm.stub.ChatStream(request)]

    async def continued(at: int) -> pb.ChatResponse:
        again = pb.ChatRequest()
        again.CopyFrom(request)
        given = [token for delta in deltas[:at] for token in delta.token_ids]
        again.continuation.token_ids.extend(given)
        rest = [delta async for delta in llm.stub.ChatStream(again)]
        return folded([*deltas[:at], *rest])

    return folded(deltas), await asyncio.gather(*map(continued, range(1, len(deltas), every)))


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("Write a poem about the sea.", {}),
        ("Count from one to ten in words.", {"sampling": {"stop": ["four, f", "zzz, yyy, xxx"]}}),
        ("What is the capital of France?", {"sampling": {"stop": ["of France is P"]}}),
        ("What is the capital of France?", {"sampling": {"min_tokens": 12, "max_tokens": 20}}),
    ],
    ids=["length", "stop words held back", "stop word found", "min_tokens"],
)
async def test_broken_and_continued_equals_unbroken(
    llm: AsyncClient, query: str, fields: dict[str, Any]
) -> None:
    """Text, finish reason, stop match, token ids and usage, wherever it broke."""
    whole, parts = await broken_everywhere(llm, ask(query, **fields))

    assert whole.usage.completion_tokens == len(whole.token_ids) > 4
    for part in parts:
        assert part == whole


def repeating(said: str, **fields: Any) -> pb.ChatRequest:
    """Make a request to which the model says `said`, as it did twice before."""
    said_before = [{"text": "Now."}, {"role": "ROLE_ASSISTANT", "text": said}] * 2
    return ask("Now.", messages=said_before, sampling={"max_tokens": 80}, **fields)


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ("🦜 naïve 漢字 🏳️‍🌈 日本語", {}),
        (CALL, {"tools": [TOOL]}),
        (f"First this. {CALL}", {"tools": [TOOL]}),
    ],
    ids=["amid a character", "amid a tool call", "text, then a tool call"],
)
async def test_whatever_the_break_falls_into(
    llm: AsyncClient, said: str, fields: dict[str, Any]
) -> None:
    """Half a character, a tool call: what was sent with the tokens and what comes add up."""
    whole, parts = await broken_everywhere(llm, repeating(said, **fields))

    assert bool(whole.message.tool_calls) == (CALL in said)
    assert said.removesuffix(CALL).strip() == whole.message.text.strip()
    assert len(parts) > 5
    for part in parts:
        assert part == whole


@pytest.fixture
async def thinker(vllm: RunningServer) -> AsyncIterator[AsyncClient]:
    """A client of the same engine with a reasoning parser, one that reads plain words."""
    from conformance.cases import Flags
    from conformance.twins import Lent
    from talkwire_server.vllm_engine.engine import VllmEngine  # only now: they import vLLM

    assert isinstance(vllm.engine, VllmEngine)
    engine = Lent(vllm.engine.llm, Flags(reasoning_parser="granite"))
    async with running(engine) as server, AsyncClient(server.target) as client:
        yield client


THOUGHT = "Here is my thought process: naïve 🦜 birds sing. Here is my response: They sing!"


async def test_broken_amid_a_thought(thinker: AsyncClient) -> None:
    """Thoughts and text add up as well, and what is a thought is counted as one."""
    whole, parts = await broken_everywhere(thinker, repeating(THOUGHT))

    assert whole.message.reasoning.strip().lower() == "naïve 🦜 birds sing."
    assert whole.message.text.strip() == "They sing!"
    for part in parts:
        assert part == whole


async def test_thoughts_can_be_kept_back(thinker: AsyncClient) -> None:
    """`exclude` sends none, streamed or not; the text and the usage are the same."""
    request = repeating(THOUGHT)
    request.ClearField("include")
    shown = await thinker.send(request)
    request.reasoning.exclude = True
    hidden = await thinker.send(request)
    async with thinker.send_stream(request) as stream:
        streamed = await stream.wait()

    assert shown.reasoning
    assert hidden.reasoning == streamed.reasoning == ""
    assert hidden.text == streamed.text == shown.text
    assert hidden.usage == streamed.usage == shown.usage


async def test_nothing_is_left_to_generate(llm: AsyncClient) -> None:
    """A continuation of all tokens ends at once, with the text that was held back."""
    request = ask("Write a poem.", sampling={"max_tokens": 8, "stop": ["zzzzzzzz"]})
    whole = await llm.stub.Chat(request)
    request.continuation.token_ids.extend(whole.token_ids)
    rest = await llm.stub.Chat(request)

    assert rest.finish_reason == pb.FINISH_REASON_LENGTH
    assert whole.message.text.endswith(rest.message.text)
    assert len(rest.message.text) == len("zzzzzzzz") - 1
    assert rest.usage.completion_tokens == 8


async def test_an_answer_that_ended_is_not_continued(llm: AsyncClient) -> None:
    """After its end of turn, or a stop token amid what may be a stop word, nothing comes."""
    ended = ask("What is the capital of France?", sampling={"stop": ["is Paris. And"]})
    whole = await llm.stub.Chat(ended)
    ended.continuation.token_ids.extend(whole.token_ids)
    ended.include.prompt_token_ids = True
    rest = await llm.stub.Chat(ended)

    assert whole.finish_reason == rest.finish_reason == pb.FINISH_REASON_STOP
    assert whole.message.text.endswith(rest.message.text)
    assert "<|" not in rest.message.text
    assert len(rest.prompt_token_ids) == whole.usage.prompt_tokens
    paris = whole.token_ids[-3]
    stopped = ask("What is the capital of France?", sampling={"stop_token_ids": [paris]})
    stopped.sampling.stop.append("of France is Paris. And")
    first = await llm.stub.Chat(stopped)
    stopped.continuation.token_ids.extend(first.token_ids)
    again = await llm.stub.Chat(stopped)

    assert first.stop_match.token_id == again.stop_match.token_id == paris
    assert first.message.text.endswith(again.message.text)
    assert "Paris" not in again.message.text


async def test_others_go_on_while_a_first_part_is_seen_again(vllm: RunningServer) -> None:
    """Health answers long before 100,000 tokens are through."""
    from vllm.sampling_params import SamplingParams

    from talkwire_server.vllm_engine.continuation import Continued
    from talkwire_server.vllm_engine.engine import VllmEngine  # only now: they import vLLM

    assert isinstance(vllm.engine, VllmEngine)
    tokenizer = vllm.engine.llm.renderer.get_tokenizer()
    ids = tokenizer.encode("word " * 100_000)
    async with grpc.aio.insecure_channel(vllm.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        await health.Check(health_pb2.HealthCheckRequest())
        first = Continued(tokenizer, ids[:1], SamplingParams(max_tokens=len(ids) + 1), ids)
        seeing = asyncio.create_task(first.replay((), asyncio.Lock()))
        await asyncio.sleep(0)
        await health.Check(health_pb2.HealthCheckRequest())

        assert not seeing.done()
        await seeing
        assert first.over is None


async def test_a_text_that_is_too_long_is_not_tokenized(vllm: RunningServer) -> None:
    """Of 15 MB no tokenizer could make as few tokens as the context has; that is said at once."""
    request = pb.ChatRequest(query="x", continuation=pb.Continuation(text="word " * (3 << 20)))
    call = Call("1", vllm.engine.models[0].id, request)
    with pytest.raises(ContextLengthExceeded) as refused:
        await vllm.engine.render(call)

    # What the longest tokens would make of it, not what the tokenizer did.
    assert int(refused.value.metadata["prompt_tokens"]) < 1 << 20


async def test_text_is_continued_without_ids(llm: AsyncClient) -> None:
    """Text alone will do where answers are not parsed; here they are, so it is refused."""
    request = ask("What is the capital of France?")
    request.continuation.text = "The capital of"
    with pytest.raises(Unsupported, match=r"continuation\.text"):
        await llm.send(request)


async def test_tokens_that_the_model_does_not_have(llm: AsyncClient) -> None:
    """Each unknown id is named."""
    request = ask("x")
    request.continuation.token_ids.extend([5, 10**6])
    with pytest.raises(InvalidRequest, match=r"continuation\.token_ids\[1\]: no token 1000000"):
        await llm.send(request)
