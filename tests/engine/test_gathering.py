"""Where tokens come fast, an answer's come several at a time, and none is lost or said twice."""

from itertools import chain
from typing import Any

import pytest

from kinds import KINDS, answers, asked, assert_same
from support import RunningServer, calling
from talkwire import AsyncClient
from talkwire_server.vllm_engine import gathering
from talkwire_server.vllm_engine.gathering import MOST, Gathering

pytestmark = pytest.mark.timeout(300)

LONG: dict[str, Any] = {"ignore_eos": True, "include": {"token_ids": True}}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any engine is fast, if one message a second is many."""
    monkeypatch.setattr(gathering, "MESSAGES", 1)


@pytest.mark.parametrize("kind", ["async", "async multiplexed"])
async def test_answers_are_equal(
    llm: AsyncClient, vllm: RunningServer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text, tokens, probabilities, calls, ends, usage and refusals, of 32 at once."""
    requests = [asked(kind, number) for number in (1, 2) for kind in KINDS]
    one_by_one = await answers(llm, requests)
    monkeypatch.setattr(gathering, "MESSAGES", 1)
    async with calling(kind, vllm.target) as caller:
        gathered = await answers(caller.client, requests)

    assert_same(one_by_one, gathered)


async def tokens(llm: AsyncClient, **options: Any) -> list[list[int]]:
    """Return those of each message of an answer."""
    async with llm.stream("Tell me a story.", **LONG, **options) as stream:
        return [list(chunk.token_ids) async for chunk in stream]


async def test_the_first_goes_alone(llm: AsyncClient, fast: None) -> None:
    """Then as many go together as may."""
    sizes = [*map(len, await tokens(llm, max_tokens=100))]

    assert sizes[0] == 1
    assert max(sizes) == MOST
    assert sum(sizes) == 100


async def test_an_answer_that_is_alone_again(
    llm: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From many at a time to few: none that waits is forgotten."""
    whole = await tokens(llm, max_tokens=100)
    monkeypatch.setattr(gathering, "MESSAGES", 1)
    found = list[list[int]]()
    async with llm.stream("Tell me a story.", **LONG, max_tokens=100) as stream:
        async for chunk in stream:
            found.append(list(chunk.token_ids))
            if len(found[-1]) == MOST:
                monkeypatch.undo()

    assert {*map(len, whole)} == {1}
    assert [*chain(*found)] == [*chain(*whole)]
    assert [*map(len, found)].count(2) > 10


async def test_an_abort_brings_what_was_gathered(llm: AsyncClient, fast: None) -> None:
    """The answer has all tokens that it is told to have cost."""
    async with llm.stream("Tell me a story.", **LONG, max_tokens=1000) as stream:
        async for chunk in stream:
            if len(chunk.token_ids) == MOST:
                break
        assert await llm.abort(stream.id)
        answer = await stream.wait()

    assert answer.finish_reason == "aborted"
    assert answer.usage.completion_tokens == len(answer.token_ids)


def test_few_tokens_come_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many come together follows how many come a second."""
    now = 0.0
    monkeypatch.setattr(gathering, "monotonic", lambda: now)
    tokens = Gathering({})

    def interval(rate: float) -> int:
        nonlocal now
        for _ in range(20):
            now += 0.02
            found = tokens.count(int(rate * 0.02))
        return found

    assert [interval(rate) for rate in (100, 5000, 10_000, 20_000, 10**6)] == [1, 1, 2, 4, MOST]
    assert interval(0) == 1
