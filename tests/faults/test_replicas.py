"""Answers of vLLM that lose their replica go on at another, to the byte."""

import asyncio

import pytest

from fault_table import Table
from support import RunningServer, running
from talkwire import AsyncClient, AsyncStream

pytestmark = pytest.mark.timeout(300)

QUERIES = [
    f"Write a {form} about {what}."
    for form in ("story", "poem")
    for what in ("a cat", "a king", "the sea", "rain")
]


async def test_answers_of_vllm_go_on_elsewhere(vllm: RunningServer, table: Table) -> None:
    """Eight greedy streams in float32, cut when all have begun: none is lost, none differs.

    The replicas are two servers before one engine; the one that leaves does so at once.
    """
    async with AsyncClient(vllm.target, temperature=0, max_tokens=48) as client:
        whole = await asyncio.gather(*map(client.chat, QUERIES))

    begun: list[AsyncStream] = []

    async def answer(client: AsyncClient, query: str) -> tuple[str, int]:
        async with client.stream(query) as stream:
            await anext(stream)
            begun.append(stream)
            await stream.wait()
        return stream.answer.text, stream.resumed

    async with running(vllm.engine) as first, running(vllm.engine) as second:
        target = f"ipv4:{first.target},{second.target}"
        async with (
            AsyncClient(target, temperature=0, max_tokens=48, resume=True) as client,
            asyncio.TaskGroup() as group,
        ):
            asking = [group.create_task(answer(client, query)) for query in QUERIES]
            while len(begun) < len(QUERIES):  # noqa: ASYNC110  # they tell nobody
                await asyncio.sleep(0.01)
            await first.server.close()

    answers = [task.result() for task in asking]
    same = sum(text == one.text for (text, _), one in zip(answers, whole, strict=True))
    table.add("replica leaves", "streams of vLLM, resumed", len(QUERIES), len(QUERIES) - same)
    assert [text for text, _ in answers] == [one.text for one in whole]
    assert {resumed for _, resumed in answers} == {1}
