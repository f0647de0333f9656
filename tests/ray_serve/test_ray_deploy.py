"""`talkwire ray deploy`, and what its replicas do: where they are, whom they let in, how many."""

import asyncio
import os
import subprocess
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from credentials import TokenFile
from fault_table import Table
from ray_cluster import RayCluster
from support import trailers
from talkwire import AsyncClient, InvalidRequest, Overloaded, Timeout, Unauthenticated
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from terminal import TALKWIRE

pytestmark = pytest.mark.timeout(300)

LONG = "word " * 1000  # 20 s
STREAMS = 32


# What is refused


def test_every_fault_of_a_file_is_named(cluster: RayCluster) -> None:
    """Of the server's flags, of Ray's, and of what Serve would pass over, at once."""
    done = cluster.command(
        "bad",
        grace=-1,
        frontends=2,
        channelz=True,
        admin_port=50052,
        metrics_port=9090,
        tls_cert_file="cert.pem",
        allow_insecure=False,
        ray={
            "replicas": 2,
            "num_cpus": -1,
            "autoscaling_config": {"max": 3},
            "env": {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "1"},
        },
    )

    assert done.returncode == 2
    for fault in (
        "--grace must be >= 0, got -1",
        "frontends: use ray.num_replicas",
        "channelz: Serve has no such service",
        "admin_port: it would change the adapters of one replica",
        "metrics_port: must be 0, got 9090: each replica takes a free one",
        "tls_cert_file: Serve's HAProxy speaks none",
        "other machines could read along and call unasked; allow_insecure: true permits it",
        "ray.replicas: Extra inputs are not permitted",
        "ray.num_cpus: Input should be greater than or equal to 0",
        "ray.autoscaling_config: unknown: max",
        "ray.env: RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD: replicas need it as it is",
    ):
        assert fault in done.stderr


@pytest.mark.parametrize("least", [1, 0])
def test_a_replica_that_cannot_start_says_why(cluster: RayCluster, least: int) -> None:
    """The command fails, with the replica's own words, also if it began when somebody asked."""
    scaling = {"min_replicas": least, "max_replicas": 1, "target_ongoing_requests": 4}
    done = cluster.command(
        "bad", token_file="/nowhere/tokens.yaml", ray={"autoscaling_config": scaling}
    )
    cluster.tell("delete", "bad")

    assert done.returncode == 1
    assert "/nowhere/tokens.yaml" in done.stderr


def test_without_haproxy_it_says_why_and_what_to_do(tmp_path: Path) -> None:
    """One line, with the command that helps."""
    pytest.importorskip("ray", reason="needs talkwire[ray]")
    done = subprocess.run(
        [*TALKWIRE, "ray", "deploy", str(tmp_path / "config.yaml")],
        env={key: value for key, value in os.environ.items() if not key.startswith("RAY_")},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "RAY_SERVE_ENABLE_HA_PROXY is not 1 here: without HAProxy Ray Serve loses" in line
    assert line.endswith("export RAY_SERVE_ENABLE_HA_PROXY=1, and start Ray anew")


async def test_nodes_are_asked_too(cluster: RayCluster) -> None:
    """A node whose Ray was started otherwise is named, and so is a grace that HAProxy would cut."""
    cluster.tell("add_node", {"RAY_SERVE_ENABLE_HA_PROXY": "0"})
    done = cluster.command("bad", grace=300)
    cluster.tell("remove_node")

    assert done.returncode == 2
    assert "RAY_SERVE_ENABLE_HA_PROXY is not 1 on " in done.stderr
    assert "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S is less than the grace of 300 s on " in done.stderr


# Where they are


async def replica_of(client: AsyncClient) -> str:
    """Tell replicas by when they loaded."""
    return str((await client.model()).load_time)


async def test_streams_spread_and_sessions_stay(deployed: Any) -> None:
    """Calls without a session go to both nodes' replicas; all of a session to one."""
    sessions: dict[str, set[str]] = {}
    async with AsyncClient(deployed.target, metadata=deployed.metadata) as client:
        anyone = Counter(await asyncio.gather(*(replica_of(client) for _ in range(24))))
    for session in map(str, range(16)):
        metadata = {**deployed.metadata, "session_id": session}
        async with AsyncClient(deployed.target, metadata=metadata) as client:
            sessions[session] = {await replica_of(client) for _ in range(4)}

    assert sorted(anyone.values()) == [12, 12]
    assert {len(replicas) for replicas in sessions.values()} == {1}
    assert len(set.union(*sessions.values())) == 2


async def test_an_abort_finds_a_call_at_any_replica(deployed: Any) -> None:
    """However HAProxy chooses, the answer ends where it is, with its usage."""
    async with AsyncClient(deployed.target, metadata=deployed.metadata) as client:
        for _ in range(2):  # by turns they come to either
            async with client.stream(LONG) as stream:
                await anext(stream)
                assert await client.abort(stream.id)
                answer = await stream.wait()
            assert (answer.finish_reason, await client.abort(stream.id)) == ("aborted", False)


# What arrives


async def test_metadata_and_health_are_those_of_a_server(deployed: Any) -> None:
    """The request's id comes before the answer; health knows services, and pushes."""
    there = [*deployed.metadata.items()]
    async with grpc.aio.insecure_channel(deployed.target) as channel:
        request = pb.ChatRequest(query="hi", request_id="mine")
        call = ChatServiceStub(channel).ChatStream(request, metadata=there)
        assert dict(await call.initial_metadata())["x-request-id"] == "mine"
        call.cancel()
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "talkwire.v1.ChatService"):
            asked = health_pb2.HealthCheckRequest(service=service)
            answer = await health.Check(asked, metadata=there)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            watch = health.Watch(asked, metadata=there)
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            watch.cancel()
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await health.Check(health_pb2.HealthCheckRequest(service="else"), metadata=there)
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND


KILLED = """
import sys
from threading import Thread
from talkwire import Client
client = Client(sys.argv[1], metadata={"application": sys.argv[3]})
def stream():
    with client.stream(sys.argv[2]) as chunks:
        for chunk in chunks:
            print(chunk, flush=True)
for _ in range(32):
    Thread(target=stream).start()
"""


async def idle(deployed: Any, since: float) -> float:
    """Wait until no chat runs; return how long that took, the question included."""
    async with asyncio.timeout(5):  # a chat that was left alone would take 20 s
        await deployed.empty()
    return monotonic() - since


async def test_every_cancel_reaches_the_engine(deployed: Any, table: Table) -> None:
    """Right after a message, when a deadline passes, and when the client is killed: 32 of 32."""

    async def leave(client: AsyncClient) -> None:
        async with client.stream(LONG) as stream:
            await anext(stream)

    async def pass_deadline(client: AsyncClient) -> None:
        with pytest.raises(Timeout):
            await client.chat(LONG, timeout=0.5)

    for way in (leave, pass_deadline):
        async with AsyncClient(deployed.target, metadata=deployed.metadata) as client:
            await asyncio.gather(*(way(client) for _ in range(STREAMS)))
            seconds = await idle(deployed, monotonic())
        table.add("cancels on Ray", way.__name__, STREAMS, 0, f"engines idle {seconds:.2f} s later")

    command = [sys.executable, "-c", KILLED, deployed.target, LONG, deployed.name]
    killed = await asyncio.create_subprocess_exec(*command, stdout=subprocess.DEVNULL)
    while await asyncio.to_thread(lambda: deployed.unfinished) < STREAMS:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    killed.kill()
    seconds = await idle(deployed, monotonic())
    await killed.wait()
    table.add("cancels on Ray", "client killed", STREAMS, 0, f"engines idle {seconds:.2f} s later")


# Whom they let in


async def test_bounds_tokens_and_gpus(cluster: RayCluster, tmp_path: Path, table: Table) -> None:
    """A replica has its GPU, asks for tokens, and refuses what is too much, with pushback."""
    tokens = TokenFile(tmp_path / "tokens.yaml")
    token = tokens.add("ada")
    small = {"max_running_requests": 2, "max_queued_requests": 2, "token_file": str(tokens.path)}
    with cluster.deployed("small", echo_delay=0.02, **small, ray={"num_gpus": 1}) as there:
        assert cluster.tell("gpus") == 3
        async with AsyncClient(cluster.target, metadata=there) as client:
            assert await client.ready(60)
            for call in (client.chat("hi"), client.models()):
                with pytest.raises(Unauthenticated) as unknown:
                    await call
                assert unknown.value.reason == "TOKEN_INVALID"

        async with AsyncClient(cluster.target, metadata=there, token=token, retry=None) as client:
            two_seconds = "word " * 100
            asked = [client.chat(two_seconds) for _ in range(12)]
            ended = await asyncio.gather(*asked, return_exceptions=True)
            refused = [error for error in ended if isinstance(error, Overloaded)]
            running = [asyncio.create_task(client.chat(two_seconds)) for _ in range(3)]
            await asyncio.sleep(0.5)
            with pytest.raises(Timeout) as late:
                await client.chat("hi", timeout=1)
            await asyncio.gather(*running)

    table.add("overload of a Ray replica", "chats at once", 12, 0, f"{len(refused)} refused")
    assert (len(refused), len(ended)) == (8, 12)
    for error in refused:
        cause: Any = error.__cause__
        assert error.reason == "QUEUE_FULL"
        assert error.retry_after
        assert int(trailers(cause)["grpc-retry-pushback-ms"]) == round(error.retry_after * 1000)
    assert late.value.reason == "DEADLINE_UNREACHABLE"


# How many there are


async def test_replicas_follow_the_chats(cluster: RayCluster) -> None:
    """Chats on one shared call bring a second replica; none, and all go. Then a call waits."""
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_ongoing_requests": 4,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
        "downscale_to_zero_delay_s": 4,
        "metrics_interval_s": 0.2,
        "look_back_period_s": 1,
    }

    async def replicas(number: int) -> None:
        running = partial(cluster.tell, "running", "scaled")
        async with asyncio.timeout(150):  # Serve has no event for it
            while await asyncio.to_thread(running) != number:  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    flags = {"echo_delay": 0.02, "max_running_per_caller": 20}
    with cluster.deployed("scaled", **flags, ray={"autoscaling_config": scaling}) as there:
        async with AsyncClient(cluster.target, metadata=there, multiplex=True) as client:
            longer = LONG * 4  # than replicas take to start
            chats = [asyncio.create_task(client.stream(longer).__aenter__()) for _ in range(8)]
            streams = await asyncio.gather(*chats)
            await replicas(2)
            for stream in streams:
                stream.cancel()
        await replicas(0)
        async with asyncio.timeout(60):
            # Until they are gone calls still come to them, and no event tells.
            while cluster.replicas("scaled"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        answer, bad, watch, shared = await nobody_there(cluster.target, there)

    # Serve's own proxy has these wait. It takes back a status and its text, nothing more.
    assert str(answer) == "hi"
    assert isinstance(bad, InvalidRequest)
    assert (bad.reason, bad.violations) == ("", ())
    assert "sampling.temperature: must be in [0, 2], got 9" in bad.message
    assert [error.code() for error in (watch, shared)] == [grpc.StatusCode.UNAVAILABLE] * 2


async def nobody_there(target: str, there: dict[str, str]) -> list[Any]:
    """Make a call of each kind while there is no replica; return what becomes of them."""
    known = [*there.items()]
    async with (
        AsyncClient(target, metadata=there) as client,
        grpc.aio.insecure_channel(target) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(), metadata=known)
        shared = ChatServiceStub(channel).ChatMultiplex(iter(()), metadata=known)
        calls = (client.chat("hi"), client.chat("hi", temperature=9), watch.read(), shared.read())
        ended: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        return ended
