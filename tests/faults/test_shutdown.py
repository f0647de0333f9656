"""Two replicas behind a client, one of which is asked to stop."""

import asyncio
import json
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import pytest

from fault_table import Table
from processes import launched
from talkwire import Answer, AsyncClient, Unavailable
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub

STREAMS = 100
WORDS = 150
TEXT = " ".join(["word"] * WORDS)

# As a service mesh or a headless service of Kubernetes would: all replicas, by turns, by health.
BALANCED = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
}


@asynccontextmanager
async def balanced(*targets: str) -> AsyncIterator[ChatServiceStub]:
    """Connect to all of some replicas, without ever trying a call again."""
    options = [("grpc.service_config", json.dumps(BALANCED)), ("grpc.enable_retries", 0)]
    async with grpc.aio.insecure_channel(f"ipv4:{','.join(targets)}", options) as channel:
        yield ChatServiceStub(channel)


async def outcome(stub: ChatServiceStub, query: str) -> str:
    """Ask for an echo; say how it went."""
    try:
        call: Any = stub.ChatStream(pb.ChatRequest(query=query))
        said = [delta.text async for delta in call]
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"
    return "whole" if "".join(said) == query else "short"


async def test_a_replica_leaves_without_a_loss(table: Table) -> None:
    """SIGTERM amid 100 streams cuts none, and not one new call fails, though none is retried."""
    with (
        launched("--echo-delay=0.02", "--lame-duck=3", "--grace=110") as leaving,
        launched("--echo-delay=0.02") as other,
    ):
        async with balanced(leaving.target, other.target) as stub:
            await asyncio.gather(*(outcome(stub, "a") for _ in range(8)))  # until both are there
            running = [asyncio.create_task(outcome(stub, TEXT)) for _ in range(STREAMS)]
            await asyncio.sleep(0.5)
            leaving.signal(signal.SIGTERM)
            line = await asyncio.to_thread(leaving.logs, "stopping")
            ended = asyncio.create_task(asyncio.to_thread(leaving.ends))
            new: Counter[str] = Counter()
            while not ended.done():
                new[await outcome(stub, "a b")] += 1
            old = Counter(await asyncio.gather(*running))
        status, log = ended.result()

    said = line.partition("INFO ")[2].strip()
    table.add("SIGTERM", "streams of two replicas", STREAMS, STREAMS - old["whole"], said)
    table.add("SIGTERM", "new calls, none retried", new.total(), new.total() - new["whole"])
    assert old == {"whole": STREAMS}
    assert new.keys() == {"whole"}
    assert status == 0, log


async def cut(client: AsyncClient) -> Answer:
    """Stream until the server leaves; return what came."""
    async with client.stream(TEXT, include={"token_ids": True}) as stream:
        with pytest.raises(Unavailable) as error:
            await stream.wait()
    assert error.value.reason == "SHUTTING_DOWN"
    assert error.value.partial
    return error.value.partial


async def test_what_outlasts_the_grace_goes_on_elsewhere(table: Table) -> None:
    """Streams that are cut are told why, and with what they have go on at the other replica."""
    with launched("--echo-delay=0.5", "--grace=1") as leaving, launched() as other:
        async with (
            AsyncClient(leaving.target, retry=None) as client,
            AsyncClient(other.target) as elsewhere,
        ):
            streams = [asyncio.create_task(cut(client)) for _ in range(STREAMS)]
            await asyncio.sleep(2)
            begin = monotonic()
            leaving.signal(signal.SIGTERM)
            partial = await asyncio.gather(*streams)
            seconds = monotonic() - begin
            whole = [await elsewhere.chat(TEXT, continuation=part) for part in partial]
        status, log = await asyncio.to_thread(leaving.ends)

    lengths = [len(part.text.split()) for part in partial]
    seen = f"cut after {seconds:.2f} s, {min(lengths)} to {max(lengths)} of {WORDS} words long"
    lost = sum(answer.text != TEXT for answer in whole)
    table.add("SIGTERM", "streams cut at a grace of 1 s, gone on with", STREAMS, lost, seen)
    assert {answer.text for answer in whole} == {TEXT}
    assert f"{STREAMS} calls did not finish within the grace" in log
    assert status == 1
