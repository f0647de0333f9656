"""Fewer, larger messages: what may wait does, for as long as was said, and nothing is lost."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import timedelta
from itertools import pairwise
from time import monotonic
from typing import Any

import grpc
import pytest

from support import make, running
from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.chunking import chunked
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call, Delta
from talkwire_server.errors import EngineDead

WORDS = " ".join(f"word{n}" for n in range(40))
STEP = 0.02


class Breaks(EchoEngine):
    """Dies amid an answer."""

    async def stream(self, call: Call) -> Any:
        at = 0
        async for delta in super().stream(call):
            yield delta
            if (at := at + 1) == 5:
                raise EngineDead


async def ask(
    engine: EchoEngine, **fields: Any
) -> tuple[list[Delta], list[float], grpc.StatusCode]:
    """Ask; return the messages, when each came, and how it ended."""
    deltas, times = [], []
    async with running(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        call = ChatServiceStub(channel).ChatStream(
            make(pb.ChatRequest, **{"query": WORDS, **fields})
        )
        try:
            async for delta in call:
                deltas.append(delta)
                times.append(monotonic())
        except grpc.aio.AioRpcError as error:
            return deltas, times, error.code()
        return deltas, times, grpc.StatusCode.OK


def whole(deltas: list[Delta]) -> pb.ChatResponse:
    answer = Accumulator()
    for delta in deltas:
        answer.add(delta)
    response = answer.response
    response.ClearField("id")
    response.ClearField("timing")
    return response


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"n": 3},
        {"include": {"token_ids": True, "logprobs": 2, "prompt_token_ids": True}},
        {"reasoning": {"effort": pb.Reasoning.EFFORT_LOW}},
        {
            "tools": [{"function": {"name": "f"}}],
            "query": 'f({"a": "b c d e f g h"})',
            "request_id": "mine",  # of which the call's id is made
        },
    ],
)
@pytest.mark.parametrize(
    "chunking",
    [{"min_chars": 25}, {"max_delay": timedelta(seconds=0.3)}, {"min_chars": 1}, {}],
)
async def test_the_answer_is_the_same(chunking: dict[str, Any], fields: dict[str, Any]) -> None:
    """However it is cut, the messages amount to the same answer; never to more messages."""
    plain, _, _ = await ask(EchoEngine(["echo"], "", 0.001), **fields)
    fewer, _, _ = await ask(EchoEngine(["echo"], "", 0.001), **fields, chunking=chunking)

    assert whole(fewer) == whole(plain)
    assert len(fewer) <= len(plain)
    assert [bool(delta.id) for delta in fewer].index(True) == 0
    assert fewer[-1].HasField("usage")
    if not chunking:
        assert len(fewer) == len(plain)


async def test_characters_gather() -> None:
    """After the first text every message but the last has as many as were asked for."""
    (first, *middle, _), _, _ = await ask(EchoEngine(["echo"], "", 0), chunking={"min_chars": 50})

    assert first.text == "word0"
    assert all(50 <= len(delta.text) <= 50 + len(" word99") for delta in middle)


async def test_the_first_text_of_each_answer_comes_at_once() -> None:
    """Another answer's text that waits, and a delta without any, begin no answer."""

    async def deltas() -> AsyncGenerator[Delta]:
        for index, text in ((0, "a"), (0, "b"), (1, ""), (1, "c"), (1, "d")):
            yield Delta(index=index, text=text)

    chunks = chunked(deltas(), pb.Chunking(min_chars=1000))
    assert [(await anext(chunks)).text for _ in range(3)] == ["a", "b", "c"]
    await chunks.aclose()


async def test_nothing_waits_longer_than_said() -> None:
    """Increments of 20 ms gather for 100 ms; a pause of the engine holds nothing back."""
    delay = {"max_delay": timedelta(seconds=5 * STEP)}
    deltas, times, _ = await ask(EchoEngine(["echo"], "", STEP), chunking=delay)
    gaps = [later - earlier for earlier, later in pairwise(times[:-1])]
    words = [len(delta.text.split()) for delta in deltas[:-1]]

    assert deltas[0].text == "word0"
    assert 3 <= len(deltas) <= len(WORDS.split()) // 2
    assert sorted(gaps)[len(gaps) // 2] >= 4 * STEP
    assert sorted(words)[len(words) // 2] <= 10  # of 5; counted, as a slow machine does not matter


async def test_what_gathered_is_sent_in_a_pause() -> None:
    """The time is counted from the first increment that waits, not asked at the next one."""
    delay = {"max_delay": timedelta(seconds=0.05)}
    async with (
        running(EchoEngine(["echo"], "", 0.5)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        request = make(pb.ChatRequest, query="a b c d", chunking=delay)
        call = ChatServiceStub(channel).ChatStream(request)
        texts = [delta.text async for delta in call]

    assert "".join(texts) == "a b c d"
    assert texts[:3] == ["a", " b", " c"]


async def test_what_gathered_comes_before_the_failure() -> None:
    """An engine that dies takes nothing with it that it had said."""
    deltas, _, code = await ask(Breaks(["echo"], "", 0), chunking={"min_chars": 1000})

    assert code is grpc.StatusCode.UNAVAILABLE
    assert "".join(delta.text for delta in deltas) == "word0 word1 word2 word3 word4"


async def test_who_is_cancelled_twice_cleans_up() -> None:
    """A second cancel does not end the first one's cleaning up."""
    cleaned = False

    async def deltas() -> AsyncGenerator[Delta]:
        nonlocal cleaned
        try:
            yield Delta(text="a")
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.1)
            cleaned = True

    async def read() -> None:
        async with aclosing(deltas()) as made, aclosing(chunked(made, pb.Chunking())) as chunks:
            async for _ in chunks:
                pass

    reading = asyncio.create_task(read())
    for _ in range(3):
        await asyncio.sleep(0.01)
        reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert cleaned


async def test_who_leaves_while_it_gathers_stops_the_engine() -> None:
    """A cancel amid the gathering ends the work."""
    engine = EchoEngine(["echo"], "", STEP)
    async with running(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        request = make(pb.ChatRequest, query=WORDS, chunking={"min_chars": 10_000})
        call = ChatServiceStub(channel).ChatStream(request)
        await call.read()
        call.cancel()
        await server.server.admission.empty()

        assert engine.unfinished == 0
