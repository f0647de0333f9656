"""Two replicas behind one client, one of them killed in mid-answer."""

import asyncio
import signal
from typing import Any

import pytest

from processes import launched
from support import calling
from talkwire import Answer
from talkwire_proto.v1 import chat_pb2 as pb

STREAMS = 64


def question(i: int) -> dict[str, Any]:
    """Make a question whose answer takes half a minute on the slow one, and ends in its own way."""
    words = " ".join(f"{i}.{word}" for word in range(97 + i % 7))
    if i % 3:
        return {"query": words, "max_tokens": 100}
    return {"query": words, "reasoning": "low", "stop": f" {i}.80"}


def told(answer: Answer) -> pb.ChatResponse:
    """Return what an answer says, without what is its call's own."""
    answer.proto.ClearField("id")
    answer.proto.ClearField("model")
    answer.proto.ClearField("timing")
    return answer.proto


@pytest.mark.parametrize("policy", ["pick_first", "round_robin"])
async def test_no_answer_is_lost_with_a_replica(kind: str, policy: str) -> None:
    """Of 64 streams those on a killed server go on at the other, and all equal undisturbed ones."""
    with (
        launched("--served-model-name=a", "--echo-delay=0.3") as a,
        launched("--served-model-name=b") as b,
    ):
        options: Any = {"channel_options": [("grpc.lb_policy_name", policy)], "resume": True}
        async with calling(kind, f"ipv4:{a.target},{b.target}", **options) as caller:
            seen = {""}
            while policy == "round_robin" and not seen > {"a", "b"}:
                seen.add((await caller.chat("hi")).model)
            begun = asyncio.Barrier(STREAMS + 1)

            async def ask(i: int) -> tuple[str, Answer, int]:
                async with caller.stream(**question(i)) as stream:
                    chunk = await anext(stream)
                    await begun.wait()
                    return chunk.proto.model, await stream.wait(), stream.resumed

            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(ask(i)) for i in range(STREAMS)]
                await begun.wait()
                a.signal(signal.SIGKILL)
            answers = [task.result() for task in asking]
        async with calling("async", b.target, include={"token_ids": True}) as other:
            undisturbed = await asyncio.gather(*(other.chat(**question(i)) for i in range(STREAMS)))

    assert "a" in {first for first, *_ in answers}
    assert [resumed for *_, resumed in answers] == [first == "a" for first, *_ in answers]
    assert [told(answer) for _, answer, _ in answers] == [told(answer) for answer in undisturbed]
