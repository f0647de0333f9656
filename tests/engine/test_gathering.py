"""Where tokens come fast, an answer's come several at a time, and none is lost or said twice."""

import asyncio
from importlib import import_module
from itertools import chain
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from kinds import KINDS, answers, asked, assert_same
from support import RunningServer, calling
from talkwire import AsyncClient

pytestmark = pytest.mark.timeout(300)

LONG: dict[str, Any] = {"ignore_eos": True, "include": {"token_ids": True}}


@pytest.fixture
def gathering(vllm: RunningServer) -> Any:
    """The module: only now, for it imports vLLM."""
    return import_module("talkwire_server.vllm_engine.gathering")


@pytest.fixture
def fast(gathering: Any, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Any engine is fast, if few tokens are many."""
    for singly in ("SHARED", "APART"):
        monkeypatch.setattr(f"talkwire_server.vllm_engine.generation.{singly}", 0.01)
    return monkeypatch


async def tokens(llm: AsyncClient, **options: Any) -> list[list[int]]:
    """Return those of each message of an answer."""
    async with llm.stream("Tell me a story.", **LONG, **options) as stream:
        return [list(chunk.token_ids) async for chunk in stream]


@pytest.mark.parametrize("kind", ["async", "async multiplexed"])
async def test_answers_are_equal(
    llm: AsyncClient, vllm: RunningServer, kind: str, request: pytest.FixtureRequest
) -> None:
    """Text, tokens, probabilities, calls, ends, usage and refusals, of many at once."""
    requests = [asked(kind, number) for number in (1, 2) for kind in KINDS]
    one_by_one = await answers(llm, requests)
    request.getfixturevalue("fast")
    async with calling(kind, vllm.target, temperature=0) as caller:
        await tokens(caller.client, max_tokens=20)  # till it is known how many come
        gathered = await answers(caller.client, requests)
        sizes = [*map(len, await tokens(caller.client, max_tokens=40))]

    assert_same(one_by_one, gathered)
    assert sum(sizes) == 40
    assert len(sizes) < 10


async def test_the_first_goes_alone(llm: AsyncClient, gathering: Any, fast: object) -> None:
    """Then as many go together as may."""
    sizes = [*map(len, await tokens(llm, max_tokens=100))]

    assert sizes[0] == 1
    assert max(sizes) >= gathering.MOST  # more, if somebody was late
    assert sum(sizes) == 100


async def test_an_answer_that_is_alone_again(
    llm: AsyncClient, gathering: Any, fast: pytest.MonkeyPatch
) -> None:
    """From many at a time back to one: none that waits is forgotten."""
    found = list[list[int]]()
    async with llm.stream("Tell me a story.", **LONG, max_tokens=100) as stream:
        async for chunk in stream:
            found.append(list(chunk.token_ids))
            if len(found[-1]) >= gathering.MOST:
                fast.setattr(gathering, "MOST", 1)  # as if few came

    assert [*chain(*found)] == [*chain(*await tokens(llm, max_tokens=100))]
    assert [*map(len, found[-10:])].count(1) > 5


@pytest.mark.parametrize("chunking", [{"min_chars": 1}, {"min_chars": 1000, "max_delay": 0.001}])
async def test_who_says_how_to_chunk_is_obeyed(
    llm: AsyncClient, fast: object, chunking: dict[str, Any]
) -> None:
    """Few characters, or a short time: each token is told of."""
    await tokens(llm, max_tokens=20)  # till it is known how many come
    sizes = [*map(len, await tokens(llm, max_tokens=40, chunking=chunking))]
    many = [*map(len, await tokens(llm, max_tokens=40, chunking={"min_chars": 80}))]

    assert sum(sizes) == sum(many) == 40
    assert sizes.count(1) > 20  # what is one character or more, if nobody was late
    assert len(many) < 8


async def test_an_abort_brings_what_was_gathered(
    llm: AsyncClient, gathering: Any, fast: pytest.MonkeyPatch
) -> None:
    """All that was generated till then, of which some waited."""
    waited = list[int]()
    whole = [*chain(*await tokens(llm, max_tokens=200))]
    for part in (0.3, 0.5, 0.7):  # of the time between two chunks
        async with llm.stream("Tell me a story.", **LONG, max_tokens=1000) as stream:
            told, times = 0, [monotonic()]
            async for chunk in stream:
                told += len(chunk.token_ids)
                times.append(monotonic())
                if len(chunk.token_ids) >= gathering.MOST:
                    break
            await asyncio.sleep((times[-1] - times[-2]) * part)
            assert await llm.abort(stream.id)
            answer = await stream.wait()
        assert answer.finish_reason == "aborted"
        assert answer.usage.completion_tokens == len(answer.token_ids)
        assert list(answer.token_ids) == whole[: len(answer.token_ids)]
        waited.append((len(answer.token_ids) - told) % gathering.MOST)

    assert any(waited)


class State:
    """What vLLM keeps of an answer, of which it has told the first token."""

    def __init__(self, interval: int = 1, engine: int = 0) -> None:
        self.engine = engine
        self.stream_interval = interval
        self.tokens = 1
        self.sent_tokens_offset = int(interval > 1)
        self.told = [1]
        self.detokenizer = SimpleNamespace(num_output_tokens=lambda: self.tokens)

    def step(self) -> bool:
        """Make a token; return whether it was told, as by `RequestState.make_request_output`."""
        self.tokens += 1
        if self.stream_interval == 1:
            self.told.append(self.tokens)
        elif self.tokens - self.sent_tokens_offset >= self.stream_interval:
            self.told += range(self.sent_tokens_offset + 1, self.tokens + 1)
            self.sent_tokens_offset = self.tokens
        return self.told[-1] == self.tokens


class Engine:
    """What there is of vLLM's here: steps, and the answers' tokens in them."""

    def __init__(self, gathering: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(gathering, "monotonic", lambda: self.now)
        self.gathering = gathering.Gathering()
        self.takes = dict[State, Any]()

    def begin(self, state: State, singly: int) -> State:
        """Begin an answer."""
        self.takes[state] = self.gathering.of(state, lambda _: ["a delta"], singly)
        self.takes[state](None)
        return state

    def run(self, rate: float, steps: int = 20, engines: int = 1) -> list[list[State]]:
        """Make so many tokens a second, a step each 20 ms; return who told, step by step."""
        told = list[list[State]]()
        for _ in range(steps):
            self.now += 0.02
            told.append([])
            for engine in range(engines):
                for state in [state for state in self.takes if state.engine == engine]:
                    if state.step():
                        told[-1].append(state)
                        self.takes[state](None)
                stats = SimpleNamespace(num_generation_tokens=rate * 0.02 / engines)
                self.gathering.record(None, stats, engine_idx=engine)
        for state in self.takes:
            assert state.told == [*range(1, len(state.told) + 1)]
        return told


@pytest.mark.parametrize(
    ("rate", "shared", "apart", "operators"),
    [(2400, 1, 1, 3), (4900, 1, 2, 3), (9900, 2, 4, 3), (14_900, 3, 6, 3), (10**6, 8, 8, 8)],
)
def test_how_many_go_together_follows_how_many_come(
    gathering: Any,
    monkeypatch: pytest.MonkeyPatch,
    rate: float,
    shared: int,
    apart: int,
    operators: int,
) -> None:
    """As many as come in 0.2 ms, of all; twice that in messages of their own."""
    engine = Engine(gathering, monkeypatch)
    states = [
        engine.begin(State(), gathering.SHARED),
        engine.begin(State(), gathering.APART),
        engine.begin(State(3), gathering.SHARED),  # what the operator says is the least
    ]
    engine.run(rate)
    told = engine.run(rate, 48)

    assert [48 / sum(state in step for step in told) for state in states] == [
        shared,
        apart,
        operators,
    ]


@pytest.mark.parametrize("engines", [1, 2, 3])
def test_all_tell_in_the_same_steps(
    gathering: Any, monkeypatch: pytest.MonkeyPatch, engines: int
) -> None:
    """Whenever they began, and whatever engine they have."""
    engine = Engine(gathering, monkeypatch)
    for number in range(7):
        engine.begin(State(engine=number % engines), gathering.SHARED)
        engine.run(19_900, 3, engines)
    engine.run(19_900, 10, engines)
    told = engine.run(19_900, 8, engines)

    assert sorted(map(len, told)) == [0] * 6 + [7] * 2


def test_one_that_waits_is_told_with_the_next(
    gathering: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When tokens come slowly again, it goes back to single ones without a loss."""
    engine = Engine(gathering, monkeypatch)
    state = engine.begin(State(), gathering.SHARED)
    engine.run(10**6)
    while state.told[-1] == state.tokens:
        engine.run(10**6, 1)
    told = engine.run(0)

    assert told[-4:] == [[state]] * 4
    assert state.stream_interval == 1
