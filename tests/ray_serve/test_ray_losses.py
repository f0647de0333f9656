"""Replicas and nodes that are killed or replaced under load: what is lost. Nothing is."""

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fault_table import Table
from ray_cluster import RayCluster
from talkwire import AsyncClient, Error, Unavailable

pytestmark = pytest.mark.timeout(300)

WORDS = 300  # 6 s
TEXT = " ".join(f"word{i}" for i in range(WORDS))
STREAMS = 24


async def answered(client: AsyncClient, begun: list[str]) -> tuple[bool, int]:
    """Stream an answer; tell whether it is whole, and how often it went on."""
    async with client.stream(TEXT) as stream:
        await anext(stream)
        begun.append(stream.id)
        await stream.wait()
    return stream.answer.text == TEXT, stream.resumed


async def ask(target: str, until: Callable[[], bool], **options: Any) -> Counter[str]:
    """Ask briefly, again and again; count how that ended."""
    ended: Counter[str] = Counter()
    async with AsyncClient(target, **options) as client:
        while not until():
            try:
                answer = await client.chat("a b")
                ended["whole" if answer.text == "a b" else "cut"] += 1
            except Error as error:
                ended[f"{error.code}: {error.message}"] += 1
    return ended


async def disturbed(
    deployed: Any, disturb: Awaitable[Any], **options: Any
) -> tuple[Counter[tuple[bool, int]], Counter[str]]:
    """Disturb an application amid streams; return how those ended, and calls made meanwhile."""
    begun: list[str] = []
    options["metadata"] = deployed.metadata
    async with (
        AsyncClient(deployed.target, **options) as one,
        AsyncClient(deployed.target, **options) as other,  # what is shared goes by turns, too
    ):
        clients = [one, other] * (STREAMS // 2)
        running = [asyncio.create_task(answered(client, begun)) for client in clients]
        while len(begun) < STREAMS:  # noqa: ASYNC110  # they tell nobody
            await asyncio.sleep(0.01)
        at = monotonic()
        disturbing = asyncio.ensure_future(disturb)
        calls = await ask(
            deployed.target, lambda: disturbing.done() and monotonic() > at + 5, **options
        )
        await disturbing
        return Counter(await asyncio.gather(*running)), calls


async def healed(deployed: Any) -> float:
    """Wait until both replicas run; return for how long."""
    begin = monotonic()
    running = partial(deployed.cluster.tell, "running", deployed.name)
    while await asyncio.to_thread(running) < 2:  # noqa: ASYNC110  # Serve has no event for it
        await asyncio.sleep(0.1)
    return monotonic() - begin


@pytest.mark.parametrize("multiplex", [False, True], ids=["calls", "multiplexed"])
async def test_a_replica_that_is_killed_loses_no_answer(
    deployed: Any, table: Table, multiplex: bool
) -> None:
    """Its streams go on at the other, to the byte, and what meets it before HAProxy knows."""
    await healed(deployed)

    async def kill() -> None:
        os.kill(deployed.cluster.replicas(deployed.name)[0], signal.SIGKILL)

    streams, calls = await disturbed(deployed, kill(), resume=True, multiplex=multiplex)
    seconds = await healed(deployed)

    went_on = sum(streams[key] for key in streams if key[1])
    lost = STREAMS - sum(streams[key] for key in streams if key[0])
    kind = "multiplexed streams" if multiplex else "streams"
    table.add("kill -9 of a Ray replica", kind, STREAMS, lost, f"{went_on} went on elsewhere")
    table.add(
        "kill -9 of a Ray replica",
        "calls meanwhile",
        calls.total(),
        calls.total() - calls["whole"],
        f"both replicas run again within {5 + seconds:.0f} s",
    )
    assert lost == 0
    assert went_on > 0
    assert calls.keys() == {"whole"}


async def test_an_update_fails_no_call(deployed: Any, table: Table) -> None:
    """Replicas are replaced one by one: streams end where they began, new calls find one."""
    await healed(deployed)
    before = deployed.cluster.replicas(deployed.name)

    streams, calls = await disturbed(deployed, asyncio.to_thread(deployed.deploy))

    lost = STREAMS - streams[True, 0]
    table.add("update on Ray", "streams of two replicas", STREAMS, lost)
    table.add("update on Ray", "new calls", calls.total(), calls.total() - calls["whole"])
    assert streams == {(True, 0): STREAMS}
    assert calls.keys() == {"whole"}
    assert not {*before} & {*deployed.cluster.replicas(deployed.name)}


async def test_what_is_left_when_the_grace_is_over_is_cut(cluster: RayCluster) -> None:
    """No sooner, and the caller is told that nobody is there."""
    there = {"application": "brief"}

    for multiplex in (False, True):
        cluster.deploy("brief", echo_delay=0.02, grace=4)
        async with AsyncClient(cluster.target, metadata=there, multiplex=multiplex) as client:
            async with client.stream(TEXT * 10) as stream:
                await anext(stream)
                at = monotonic()
                deleting = asyncio.create_task(asyncio.to_thread(cluster.tell, "delete", "brief"))
                with pytest.raises(Unavailable):
                    await stream.wait()
                assert monotonic() - at > 3
            await deleting


async def test_an_open_watch_holds_a_replica_that_leaves(cluster: RayCluster) -> None:
    """Until the grace is over, while a server would tell who watches, and go."""
    asked = health_pb2.HealthCheckRequest()
    cluster.deploy("brief", grace=12)
    async with grpc.aio.insecure_channel(cluster.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(asked, metadata=[("application", "brief")])
        assert (await anext(aiter(watch))).status == health_pb2.HealthCheckResponse.SERVING
        at = monotonic()
        deleting = asyncio.create_task(asyncio.to_thread(cluster.tell, "delete", "brief"))
        with suppress(grpc.aio.AioRpcError):
            async for _ in watch:
                pass
        seconds = monotonic() - at
        await deleting

    assert seconds > 11


async def test_a_node_that_is_killed_loses_no_answer(deployed: Any, table: Table) -> None:
    """Streams of its replica go on at the other node's."""
    await healed(deployed)
    kill = asyncio.to_thread(deployed.cluster.tell, "kill_node")

    streams, calls = await disturbed(deployed, kill, resume=True)
    await asyncio.to_thread(deployed.cluster.tell, "add_node", deployed.cluster.environment)
    await healed(deployed)

    went_on = sum(streams[key] for key in streams if key[1])
    lost = STREAMS - sum(streams[key] for key in streams if key[0])
    table.add("kill -9 of a Ray node", "streams", STREAMS, lost, f"{went_on} went on elsewhere")
    table.add(
        "kill -9 of a Ray node", "calls meanwhile", calls.total(), calls.total() - calls["whole"]
    )
    assert lost == 0
    assert went_on > 0
    assert calls.keys() == {"whole"}
