"""What a call is charged with on the real engine, however it ends."""

import asyncio
from typing import Any

import pytest

from support import RunningServer, make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.errors import InvalidRequest

pytestmark = pytest.mark.timeout(300)


def call_of(vllm: RunningServer, *, final_only: bool = False, **fields: Any) -> Call:
    """Make an admitted call; an answer has 1000 tokens unless it is cut."""
    sampling = {"temperature": 0, "ignore_eos": True, "max_tokens": 1000, **fields}
    request = make(pb.ChatRequest, query="Count.", sampling=sampling)
    return Call("used", vllm.engine.models[0].id, request, final_only)


async def test_an_answer_that_ends_is_charged_as_in_its_usage(vllm: RunningServer) -> None:
    """Prompt and answer together."""
    call = call_of(vllm, max_tokens=5)
    *_, last = [delta async for delta in vllm.engine.stream(call)]

    assert call.used == last.usage.prompt_tokens + last.usage.completion_tokens


@pytest.mark.parametrize("final_only", [False, True], ids=["stream", "unary"])
async def test_an_answer_that_is_cut(vllm: RunningServer, final_only: bool) -> None:
    """Of a stream what came is charged, of a unary call all that it could have been."""
    call = call_of(vllm, final_only=final_only)
    prompt = len((await vllm.engine.render(call)).token_ids)
    stream = vllm.engine.stream(call)
    coming = asyncio.ensure_future(anext(stream))
    while not vllm.engine.unfinished:  # noqa: ASYNC110  # it has no event for it
        await asyncio.sleep(0.001)
    coming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await coming

    assert call.used == prompt + 1000 if final_only else prompt <= call.used < prompt + 1000


@pytest.mark.parametrize(
    "fields",
    [{"allowed_token_ids": [10**6]}, {"max_tokens": 10, "bad_words": [""]}],
    ids=["by the engine", "by the checks"],
)
async def test_a_call_that_is_refused_costs_nothing(
    vllm: RunningServer, fields: dict[str, Any]
) -> None:
    """Whoever refuses it."""
    call = call_of(vllm, **fields)
    with pytest.raises(InvalidRequest):
        await anext(vllm.engine.stream(call))

    assert call.used == 0
