"""Answers of vLLM that lose their replica go on at another, to the byte."""

import asyncio
import signal

import pytest

from fault_table import Table
from processes import launched
from support import AsyncCaller, RunningServer, sees
from talkwire import AsyncClient, AsyncStream

pytestmark = pytest.mark.timeout(300)

QUERIES = [
    f"Write a {form} about {what}."
    for form in ("story", "poem")
    for what in ("a cat", "a king", "the sea", "rain")
]


async def test_answers_of_vllm_go_on_elsewhere(vllm: RunningServer, table: Table) -> None:
    """`kill -9` of a server and its engine amid eight greedy streams in float32: all go on.

    None is lost, and none differs from the answer that nothing disturbed.
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

    with launched("--engine=vllm", f"--kv-cache-memory-bytes={128 << 20}") as first:
        target = await asyncio.to_thread(lambda: first.target)
        async with AsyncClient(
            [target, vllm.target], balance="first", temperature=0, max_tokens=48, resume=True
        ) as client:
            await sees(AsyncCaller(client), 2)
            async with asyncio.TaskGroup() as group:
                asking = [group.create_task(answer(client, query)) for query in QUERIES]
                while len(begun) < len(QUERIES):  # noqa: ASYNC110  # they tell nobody
                    await asyncio.sleep(0.01)
                first.signal(signal.SIGKILL)

    answers = [task.result() for task in asking]
    same = sum(text == one.text for (text, _), one in zip(answers, whole, strict=True))
    table.add("kill -9", "streams of vLLM, resumed", len(QUERIES), len(QUERIES) - same)
    assert [text for text, _ in answers] == [one.text for one in whole]
    assert {resumed for _, resumed in answers} == {1}
