"""However a call ends early, vLLM stops working on it. Times are printed (pytest -s)."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import perf_counter

import pytest

from support import RunningServer, running
from talkwire import AsyncClient, Cancelled, Error, Timeout, Unavailable

pytestmark = pytest.mark.timeout(300)

LONG = "Tell me a very long story."


@asynccontextmanager
async def measured(vllm: RunningServer, what: str) -> AsyncIterator[None]:
    """Print how long from the beginning of the block vLLM goes on with an unfinished request."""
    assert vllm.engine.unfinished
    start = perf_counter()
    idle = asyncio.ensure_future(_idle(vllm))
    yield
    await asyncio.wait_for(idle, 10)
    sys.stdout.write(f"{what}: idle after {(idle.result() - start) * 1000:.1f} ms\n")


async def _idle(vllm: RunningServer) -> float:
    while vllm.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
        await asyncio.sleep(0.0005)
    return perf_counter()


async def begin(stream: AsyncIterator[object], vllm: RunningServer, chunks: int) -> None:
    for _ in range(chunks):
        await anext(stream)
    assert vllm.engine.unfinished == 1


@pytest.mark.parametrize("chunks", [0, 3])
async def test_cancel(llm: AsyncClient, vllm: RunningServer, chunks: int) -> None:
    """A cancel by the client, before the first token or amid the answer."""
    async with llm.stream(LONG, max_tokens=1000, ignore_eos=True) as stream:
        while not vllm.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
            await asyncio.sleep(0.001)
        await begin(stream, vllm, chunks)
        async with measured(vllm, f"cancel after {chunks} chunks"):
            stream.cancel()
        with pytest.raises(Cancelled):
            await stream.wait()


async def test_leaving_the_block(llm: AsyncClient, vllm: RunningServer) -> None:
    """A `break` out of the stream."""
    stream = llm.stream(LONG, max_tokens=1000, ignore_eos=True)
    await stream.__aenter__()
    await begin(stream, vllm, 3)
    async with measured(vllm, "break"):
        await stream.__aexit__(None, None, None)


async def test_a_cancelled_task(llm: AsyncClient, vllm: RunningServer) -> None:
    """A task that is cancelled while it waits for a unary answer."""
    task = asyncio.ensure_future(llm.chat(LONG, max_tokens=1000, ignore_eos=True))
    while not vllm.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
        await asyncio.sleep(0.01)
    async with measured(vllm, "task cancel"):
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("unary", [True, False])
async def test_deadline(llm: AsyncClient, vllm: RunningServer, unary: bool) -> None:
    """An expired deadline, of either rpc."""

    async def ask() -> None:
        if unary:
            await llm.chat(LONG, max_tokens=1000, ignore_eos=True, timeout=1)
        else:
            async with llm.stream(LONG, max_tokens=1000, ignore_eos=True, timeout=1) as stream:
                await stream.wait()

    start = perf_counter()
    with pytest.raises(Timeout):
        await ask()
    idle = await asyncio.wait_for(_idle(vllm), 10)
    sys.stdout.write(f"deadline: idle {(idle - start - 1) * 1000:.1f} ms after it\n")


async def test_a_killed_client(vllm: RunningServer) -> None:
    """`kill -9` of a client's process."""
    script = (
        "from talkwire import Client\n"
        f"with Client({vllm.target!r}).stream({LONG!r}, max_tokens=1000, ignore_eos=True) as s:\n"
        "    for chunk in s: print(chunk, flush=True)\n"
    )
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE
    )
    assert client.stdout
    await client.stdout.readline()
    assert vllm.engine.unfinished == 1
    async with measured(vllm, "kill -9 of the client"):
        client.send_signal(signal.SIGKILL)
    await client.wait()


async def test_server_stop(vllm: RunningServer) -> None:
    """The end of the server itself; the client is told, and keeps what came."""
    async with (
        running(vllm.engine) as second,
        AsyncClient(second.target) as client,
        client.stream(LONG, max_tokens=1000, ignore_eos=True) as stream,
    ):
        await begin(stream, vllm, 3)
        async with measured(vllm, "server stop"):
            await second.server.close()
        with pytest.raises(Unavailable) as caught:
            await stream.wait()

    assert caught.value.partial
    assert caught.value.partial.text


async def test_a_hundred_cancels_leave_nothing(llm: AsyncClient, vllm: RunningServer) -> None:
    """Cancels at any moment, many at once: no request is left, and the engine answers on."""

    async def cancelled(i: int) -> None:
        task = asyncio.ensure_future(llm.chat(f"{LONG} {i}", max_tokens=200, ignore_eos=True))
        await asyncio.sleep(i * 0.007)
        task.cancel()
        with pytest.raises((asyncio.CancelledError, Error)):
            await task

    await asyncio.gather(*map(cancelled, range(100)))
    await asyncio.wait_for(_idle(vllm), 10)

    assert (await llm.chat("Hi", max_tokens=1)).complete
