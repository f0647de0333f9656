"""On the real engine a multiplexed call is answered as a call of its own is."""

import asyncio
import json
import random
import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from support import RunningServer, make
from talkwire import AsyncClient, Cancelled
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call

pytestmark = pytest.mark.timeout(300)

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"function": {"name": "paint", "parameters": json.dumps(SCHEMA)}}]
CALL = '<tool_call>\n{"name": "paint", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
SAID = [{"text": "Now."}, {"role": "ROLE_ASSISTANT", "text": f"First this. {CALL}"}] * 2
TOKENS = [504, 3575, 282, 4649, 314]

# What is asked beside the question, and greedy.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long": {"sampling": {"max_tokens": 100, "ignore_eos": True}},
    "stop words": {"sampling": {"stop": ["zzz, yyy", "the", "Paris"], "include_stop": True}},
    "stop token": {"sampling": {"stop_token_ids": [260, 284]}},
    "two answers": {"n": 2, "sampling": {"temperature": 1, "top_k": 1}},
    "details": {
        "include": {"logprobs": 3, "token_ids": True, "prompt_token_ids": True},
        "sampling": {"min_tokens": 8},
    },
    "all at once": {
        "n": 2,
        "include": {"logprobs": 0, "token_ids": True, "prompt_logprobs": 1},
        "sampling": {"temperature": 1, "top_k": 1, "stop": ["never said", "of"]},
    },
    "form": {"output_format": {"json_schema": json.dumps(SCHEMA)}},
    "forced call": {
        "tools": TOOLS,
        "tool_choice": {"mode": "MODE_REQUIRED"},
        "sampling": {"max_tokens": 96},
    },
    "call of its own": {
        "tools": TOOLS,
        "messages": SAID,
        "query": "Now.",
        "sampling": {"max_tokens": 80},
    },
    "calls of two": {
        "tools": TOOLS,
        "messages": SAID,
        "query": "Now.",
        "n": 2,
        "sampling": {"temperature": 1, "top_k": 1, "max_tokens": 80},
    },
    "continuation": {"continuation": {"token_ids": TOKENS}, "include": {"token_ids": True}},
    "few characters": {"chunking": {"min_chars": 20}, "include": {"token_ids": True}},
    "little time": {"chunking": {"max_delay": {"nanos": 50_000_000}}},
    "one token": {"sampling": {"max_tokens": 1}},
    "too long": {"sampling": {"max_tokens": 5000}},
}


LOGPROB = re.compile(r"logprob: \S+")  # the sums in it depend on what is computed beside it


@pytest.fixture
async def multiplexed(vllm: RunningServer) -> AsyncIterator[AsyncClient]:
    """A client whose streams share two calls."""
    async with AsyncClient(vllm.target, multiplex=2) as client:
        yield client


def asked(kind: str, number: int) -> pb.ChatRequest:
    """Make a request of a kind, with an id that tells it."""
    fields = {"query": f"Tell me of the {number}. wonder of the world.", **KINDS[kind]}
    fields["sampling"] = {"temperature": 0, "max_tokens": 40, **fields.get("sampling", {})}
    return make(pb.ChatRequest, request_id=f"{kind}-{number}".replace(" ", "-"), **fields)


async def answers(client: AsyncClient, requests: Sequence[pb.ChatRequest]) -> list[Any]:
    """Ask all at once; return the answers or errors, without what differs each time."""

    async def ask(request: pb.ChatRequest) -> Any:
        async with client.send_stream(request) as stream:
            response = (await stream.wait()).proto
        response.ClearField("timing")
        response.usage.ClearField("cached_tokens")
        made: list[Any] = [response, *response.alternatives]
        for answer in made:
            for call in answer.message.tool_calls:
                call.ClearField("id")
        return response

    found = await asyncio.gather(*map(ask, requests), return_exceptions=True)
    return [answer if isinstance(answer, pb.ChatResponse) else repr(answer) for answer in found]


def logprobs(answer: pb.ChatResponse | str) -> list[float]:
    """Return all that an answer holds."""
    return [float(found.split()[1]) for found in LOGPROB.findall(str(answer))]


async def test_answers_are_equal(llm: AsyncClient, multiplexed: AsyncClient) -> None:
    """Text, tokens, probabilities, calls, ends, usage and refusals, of 32 at once."""
    requests = [asked(kind, number) for number in (1, 2) for kind in KINDS]
    own = await answers(llm, requests)
    shared = await answers(multiplexed, requests)

    for request, alone, among in zip(requests, own, shared, strict=True):
        assert LOGPROB.split(str(among)) == LOGPROB.split(str(alone)), request.request_id
        assert logprobs(among) == pytest.approx(logprobs(alone), abs=1e-4), request.request_id
    by_kind: dict[str, Any] = dict(zip(KINDS, shared, strict=False))
    assert len(requests) == 32
    assert [kind for kind, answer in by_kind.items() if isinstance(answer, str)] == ["too long"]
    assert len(by_kind["two answers"].alternatives) == 1
    assert by_kind["details"].logprobs
    assert by_kind["forced call"].message.tool_calls
    assert by_kind["call of its own"].message.tool_calls
    assert by_kind["calls of two"].alternatives[0].message.tool_calls
    assert json.loads(by_kind["form"].message.text)["city"]


async def test_of_cancelled_calls_nothing_is_left(
    multiplexed: AsyncClient, vllm: RunningServer
) -> None:
    """Half of 32 calls are cancelled at any moment: the others' answers are whole."""
    draw = random.Random(5)
    requests = [asked("long", number) for number in range(16)]
    whole = await answers(multiplexed, requests)

    async def cancelled(number: int, chunks: int) -> None:
        async with multiplexed.send_stream(asked("long", number)) as stream:
            for _ in range(chunks):
                await anext(stream)
            stream.cancel()
            with pytest.raises(Cancelled):
                await stream.wait()

    ending = [cancelled(number, draw.randrange(20)) for number in range(100, 116)]
    beside, *_ = await asyncio.gather(answers(multiplexed, requests), *ending)

    assert beside == whole
    async with asyncio.timeout(10):
        while vllm.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
            await asyncio.sleep(0.005)
        await vllm.server.admission.empty()


async def test_an_end_behind_the_answer_ends_nothing(vllm: RunningServer) -> None:
    """A time limit that passes while the last chunk waits to be sent spares the id's next call."""
    request = asked("long", 1)
    before, after = (Call("same", vllm.engine.models[0].id, request) for _ in range(2))
    async for _ in vllm.engine.stream(before):
        pass
    before.end(pb.FINISH_REASON_TIME_LIMIT)
    await asyncio.sleep(0)
    *_, last = [delta async for delta in vllm.engine.stream(after)]

    assert last.finish_reason == pb.FINISH_REASON_LENGTH
