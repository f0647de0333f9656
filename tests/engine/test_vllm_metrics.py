"""vLLM's metrics beside ours, and what the dashboard and the alerts ask of them."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from load.prometheus import Prometheus, panels, prometheus
from prometheus import asked_by_alerts, missing, needs_prometheus
from scraping import Page
from support import RunningServer
from terminal import talkwire

SYSTEM = "You know all about the sea, and say it in few words. " * 20


async def load(llm: Any) -> None:
    """Ask several things at once, with a prompt that they share."""
    asked = [f"What is a fish of the number {n}?" for n in range(6)]
    await asyncio.gather(*(llm.chat(one, system=SYSTEM, max_tokens=24) for one in asked))


async def test_vllm_is_on_the_page(vllm: RunningServer, llm: Any) -> None:
    """What vLLM counts is what our usage says, and it is there once."""
    assert vllm.server.metrics
    url = vllm.server.metrics.url
    before = await asyncio.to_thread(Page, url)
    answer = await llm.chat("What is the capital of France?")
    after = await asyncio.to_thread(Page, url)

    def rise(name: str, **labels: str) -> float:
        return after.value(name, **labels) - before.value(name, **labels)

    assert rise("vllm:generation_tokens_total") == answer.usage.completion_tokens
    assert rise("vllm:prompt_tokens_total") == answer.usage.prompt_tokens
    assert rise("vllm:e2e_request_latency_seconds_count") == 1
    assert rise("talkwire_tokens_total", kind="completion") == answer.usage.completion_tokens


async def test_top_shows_the_kv_cache(vllm: RunningServer) -> None:
    """With vLLM there is one, and what is used of it."""
    assert vllm.server.metrics
    shown = await asyncio.to_thread(talkwire, "top", "--interval=0.2", vllm.server.metrics.url)

    assert shown.status == 0
    assert re.search(r" \d+% ", shown.out)


@needs_prometheus
@pytest.mark.timeout(180)
async def test_all_queries_of_vllm_give_what_the_load_made(
    vllm: RunningServer, llm: Any, tmp_path: Path
) -> None:
    """Each panel has data; so has each metric that an alert asks for."""
    assert vllm.server.metrics
    async with prometheus(tmp_path, vllm.server.metrics.url) as one:
        while len(await asyncio.to_thread(one.series, "vllm:num_requests_running")) < 1:
            await load(llm)
        for _ in range(4):
            await load(llm)
        await asyncio.to_thread(all_have_data, one)


def all_have_data(one: Prometheus) -> None:
    theirs = [panel for panel in panels() if panel.is_vllms]
    assert len(theirs) == 6
    assert [*missing(one, theirs, quiet=["Preemptions"])] == []
    asked = [name for name in asked_by_alerts() if name.startswith("vllm:")]
    assert len(asked) == 5
    assert [name for name in asked if not one.series(name)] == []
