"""vLLM inside a replica, with the embedded model.

`TALKWIRE_FAULTS=full` kills its processes, too, which takes two more starts of an engine.
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from time import monotonic

import httpx
import pytest

from fault_table import Table
from ray_cluster import RayCluster
from scraping import Page
from several import alive, descendants
from talkwire import AsyncClient, ContextLengthExceeded

pytestmark = pytest.mark.timeout(600)

FULL = os.environ.get("TALKWIRE_FAULTS") == "full"
NAME = "model"
QUERIES = [
    f"Write a {form} about {what}." for form in ("story", "poem") for what in ("rain", "a cat")
]


@pytest.fixture(scope="module")
async def model(cluster: RayCluster) -> AsyncIterator[AsyncClient]:
    """A client of one replica; greedy, and going on when it is lost."""
    if find_spec("vllm") is None:
        pytest.skip("needs talkwire[cpu] or talkwire[gpu]")
    flags = {"kv_cache_memory_bytes": 128 << 20, "max_model_len": 2048}
    ray = {"num_cpus": 2 if FULL else 1}  # as many threads; others' engines compute, too
    with cluster.deployed(NAME, engine="vllm", metrics_port=0, ray=ray, **flags) as there:
        async with AsyncClient(
            cluster.target, metadata=there, temperature=0, max_tokens=64, resume=True
        ) as client:
            yield client


async def test_it_answers_and_stops(model: AsyncClient, cluster: RayCluster) -> None:
    """The text is the model's, its faults are ours, and who leaves frees the engine."""
    assert "Paris" in (await model.chat("What is the capital of France?")).text
    with pytest.raises(ContextLengthExceeded) as long:
        await model.chat("x " * 5000)
    assert long.value.max_context_tokens == 2048
    async with httpx.AsyncClient(trust_env=False) as http:
        told = await http.get(f"http://127.0.0.1:{cluster.http_port}/{NAME}")
    (target,) = told.json()[0]["targets"]
    page = await asyncio.to_thread(Page, f"http://{target}/metrics")
    assert page.value("vllm:generation_tokens_total") > 0

    async def leave() -> None:
        async with model.stream("Tell a story.", max_tokens=1500, ignore_eos=True) as stream:
            await anext(stream)

    await asyncio.gather(*(leave() for _ in range(16)))
    async with asyncio.timeout(10):  # 1500 tokens would take longer
        while await asyncio.to_thread(cluster.tell, "chats", NAME):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def engines(cluster: RayCluster) -> list[int]:
    """List the processes of the replica's engine."""
    (replica,) = cluster.replicas(NAME)
    return [
        pid
        for pid in descendants(replica)
        if b"VLLM::EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.skipif(not FULL, reason="takes minutes: TALKWIRE_FAULTS=full")
@pytest.mark.parametrize("victim", ["replica", "engine"])
async def test_its_answers_outlive_it(
    model: AsyncClient, cluster: RayCluster, table: Table, victim: str
) -> None:
    """Amid greedy streams it is killed: another starts, and each answer is the undisturbed one."""
    whole = await asyncio.gather(*map(model.chat, QUERIES))
    (replica,), (engine,) = cluster.replicas(NAME), engines(cluster)

    async def answer(query: str) -> tuple[str, int]:
        async with model.stream(query) as stream:
            await anext(stream)
            begun.append(stream.id)
            await stream.wait()
        return stream.answer.text, stream.resumed

    begun: list[str] = []
    running = [asyncio.create_task(answer(query)) for query in QUERIES]
    while len(begun) < len(QUERIES):  # noqa: ASYNC110  # they tell nobody
        await asyncio.sleep(0.01)
    os.kill(engine if victim == "engine" else replica, signal.SIGKILL)
    at = monotonic()
    await model.chat("hi", max_tokens=1)
    seconds = monotonic() - at
    answers = await asyncio.gather(*running)

    lost = sum(text != one.text for (text, _), one in zip(answers, whole, strict=True))
    seen = f"answers again after {seconds:.0f} s"
    table.add(f"kill -9 of vLLM on Ray: {victim}", "its streams, resumed", len(whole), lost, seen)
    assert [text for text, _ in answers] == [one.text for one in whole]
    assert not alive(replica)
    assert not alive(engine)
