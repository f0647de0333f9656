"""On the real engine a multiplexed call is answered as a call of its own is."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kinds import KINDS, answers, asked, assert_same
from support import RunningServer
from talkwire import AsyncClient, Cancelled
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
async def multiplexed(vllm: RunningServer) -> AsyncIterator[AsyncClient]:
    """A client whose streams share two calls."""
    async with AsyncClient(vllm.target, multiplex=2) as client:
        yield client


async def test_answers_are_equal(llm: AsyncClient, multiplexed: AsyncClient) -> None:
    """Text, tokens, probabilities, calls, ends, usage and refusals, of 36 at once."""
    requests = [asked(kind, number) for number in (1, 2) for kind in KINDS]
    own = await answers(llm, requests)
    shared = await answers(multiplexed, requests)

    assert_same(own, shared)
    by_kind: dict[str, Any] = dict(zip(KINDS, shared, strict=False))
    assert len(requests) == 36
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
