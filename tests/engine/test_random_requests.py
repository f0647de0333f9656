"""Whatever the real engine is asked, the answer is one that the contract names."""

import asyncio
from collections import Counter

import pytest

from outcomes import ended
from requests_strategy import chosen_seed, examples
from support import RunningServer
from talkwire import AsyncClient
from talkwire_proto.v1 import chat_pb2 as pb

pytestmark = pytest.mark.timeout(600)

COUNT = 500
AT_ONCE = 20


async def test_no_request_breaks_the_engine(
    llm: AsyncClient, vllm: RunningServer, pytestconfig: pytest.Config
) -> None:
    """500 random requests, good and bad: never INTERNAL or UNKNOWN, nothing leaks, it serves on."""
    requests = examples(COUNT, chosen_seed(pytestconfig))
    seen: Counter[str] = Counter()
    slots = asyncio.Semaphore(AT_ONCE)

    async def send(request: pb.ChatRequest) -> None:
        if not request.sampling.HasField("max_tokens"):
            request.sampling.max_tokens = 4  # else a good one takes seconds
        async with slots:
            outcome = await ended(request, llm.stub.Chat(request))
            seen["OK" if isinstance(outcome, pb.ChatResponse) else outcome.name] += 1

    await asyncio.gather(*map(send, requests))
    print(f"{seen.total()} requests: {dict(seen)}")  # noqa: T201

    assert "Paris" in (await llm.chat("What is the capital of France?")).text
    assert vllm.engine.unfinished == 0
    assert seen.total() == COUNT
    assert seen["OK"] > COUNT / 20
