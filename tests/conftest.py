"""Fixtures: real servers in this process, and both clients."""

import os
import signal
import warnings
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from typing import Any

import grpc
import pytest

from processes import serving
from support import RunningServer, calling, running
from talkwire_server import vllm_engine
from talkwire_server.echo import EchoEngine
from talkwire_server.settings import Settings

pytest.register_assert_rewrite("kinds")
pytest_plugins = ["abreast", "fault_table"]

# The threads of an engine wait for one another in each layer: two take four times as long as one
# while other tests compute, and four fifths of it while none do.
os.environ |= {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

# A job in the background ignores Ctrl-C, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let those go first that fork: the real engine's tests, then terminals', before gRPC's."""
    items.sort(key=lambda item: [part not in item.path.parts for part in ("engine", "cli")])


@pytest.fixture(scope="session")
async def echo() -> AsyncIterator[RunningServer]:
    """A server on the echo engine, as fast as it can."""
    async with running(EchoEngine(["echo"], "Be brief.", 0)) as server:
        yield server


@pytest.fixture(scope="session")
async def slow_echo() -> AsyncIterator[RunningServer]:
    """A server on the echo engine that takes 20 ms a word."""
    async with running(EchoEngine(["echo"], "", 0.02)) as server:
        yield server


@pytest.fixture(scope="module")
def target() -> Iterator[str]:
    """The address of an echo server in a process of its own, as fast as it can."""
    with serving() as address:
        yield address


@pytest.fixture(params=["async", "sync", "async multiplexed", "sync multiplexed"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients."""
    return str(request.param)


@pytest.fixture
async def client(kind: str, echo: RunningServer) -> AsyncIterator[Any]:
    """Either client, connected to the echo server."""
    async with calling(kind, echo.target) as caller:
        yield caller


@pytest.fixture
async def slow_client(kind: str, slow_echo: RunningServer) -> AsyncIterator[Any]:
    """Either client, connected to the slow echo server."""
    async with calling(kind, slow_echo.target) as caller:
        yield caller


@pytest.fixture
async def channel(echo: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    """A plain channel to the echo server."""
    async with grpc.aio.insecure_channel(echo.target) as channel:
        yield channel


# float32 by default on a CPU: greedy answers do not depend on what else is in the batch.
FLAGS = (
    "--max-model-len=2048",
    f"--kv-cache-memory-bytes={512 << 20}",
    "--max-num-seqs=32",
    "--scheduling-policy=priority",
)


@pytest.fixture(scope="session")
async def vllm() -> AsyncIterator[RunningServer]:
    """A server on vLLM with the embedded model."""
    if find_spec("vllm") is None:
        pytest.skip("needs talkwire[cpu] or talkwire[gpu]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own, here and in the process that it forks
        settings = Settings(
            engine_args=FLAGS,
            tool_call_parser="hermes",
            engine_options=("repetition_detection",),
        )
        engine = vllm_engine.load(settings)
        await engine.launch()
    try:
        # Many tests ask for more at once than may wait by default, and are not about that.
        async with running(engine, max_queued_requests=1000, metrics_port=0) as server:
            yield server
    finally:
        await engine.stop()


@pytest.fixture
async def llm(vllm: RunningServer) -> AsyncIterator[Any]:
    """The asyncio client, connected to the real engine; greedy and brief unless told otherwise."""
    async with calling("async", vllm.target, temperature=0, max_tokens=32) as caller:
        yield caller.client
