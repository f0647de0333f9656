"""One real engine for all tests: vLLM with the embedded model, in this process."""

import warnings
from collections.abc import AsyncIterator
from importlib.util import find_spec
from typing import Any

import pytest

from support import RunningServer, calling, running
from talkwire_server import vllm_engine
from talkwire_server.settings import Settings

# float32 by default on a CPU: greedy answers do not depend on what else is in the batch.
FLAGS = ("--max-model-len", "2048", "--kv-cache-memory-bytes", str(512 << 20))


@pytest.fixture(scope="session")
async def vllm() -> AsyncIterator[RunningServer]:
    """A server on vLLM with the embedded model."""
    if find_spec("vllm") is None:
        pytest.skip("needs talkwire[cpu] or talkwire[gpu]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own, here and in the process that it forks
        engine = vllm_engine.load(Settings(engine_args=FLAGS))
        await engine.launch()
    try:
        async with running(engine) as server:
            yield server
    finally:
        await engine.stop()


@pytest.fixture
async def llm(vllm: RunningServer) -> AsyncIterator[Any]:
    """The asyncio client, connected to the real engine; greedy and brief unless told otherwise."""
    async with calling("async", vllm.target, temperature=0, max_tokens=32) as caller:
        yield caller.client
