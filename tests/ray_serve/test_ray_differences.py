"""docs/ray.md, "What differs": where replicas behind HAProxy are not what a plain server is.

Rows about replicas that come and go are those of `test_ray_deploy.py` and `test_ray_losses.py`,
flags that are refused `test_ray_deploy.py`'s, metrics `test_ray_metrics.py`'s. Not shown: that a
`cache_id` is a replica's, as its memory is, and that a leaving replica hears of no `Abort`.
"""

import asyncio
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from credentials import TokenFile
from processes import GRPCURL, run
from ray_cluster import RayCluster
from support import running
from talkwire import AsyncClient, Overloaded
from talkwire_server.echo import EchoEngine
from wires import wired

pytestmark = pytest.mark.timeout(300)

LONG = "word " * 1000  # 20 s
BY_DEFAULT = 100  # calls of a connection, as HAProxy is configured by Serve


async def test_a_request_id_is_one_replicas(deployed: Any) -> None:
    """Two replicas may run the same at once, where one would refuse the second."""
    async with (
        AsyncClient(deployed.target, metadata=deployed.metadata) as client,
        client.stream(LONG, request_id="twice") as one,
        client.stream(LONG, request_id="twice") as other,
    ):
        assert [(await anext(stream)).proto.id for stream in (one, other)] == ["twice"] * 2


async def refusal(target: str, metadata: dict[str, str]) -> str:
    """Say why a caller of another address is not let in while one has the one call it may have."""
    async with (
        wired(target, "127.0.0.2") as wire,
        AsyncClient(target, metadata=metadata, retry=None) as one,
        AsyncClient(wire.target, metadata=metadata, retry=None) as other,
        one.stream(LONG) as stream,
    ):
        await anext(stream)
        try:
            await other.chat("hi")
        except Overloaded as error:
            return error.reason
        return ""


async def test_callers_without_a_token_are_one(cluster: RayCluster) -> None:
    """A server tells addresses apart; to a replica all come from HAProxy."""
    async with running(EchoEngine(["echo"], "", 0.02), max_running_per_caller=1) as plain:
        assert await refusal(plain.target, {}) == ""

    with cluster.deployed("quota", echo_delay=0.02, max_running_per_caller=1) as there:
        assert await refusal(cluster.target, there) == "QUOTA_EXCEEDED"


async def one_more_waits(deployed: Any) -> bool:
    """Whether a call waits whose connection has a hundred, and not that of another one."""
    asked = health_pb2.HealthCheckRequest()
    there, own = [*deployed.metadata.items()], [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(deployed.target) as channel,
        grpc.aio.insecure_channel(deployed.target, own) as beside,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watches = [health.Watch(asked, metadata=there) for _ in range(BY_DEFAULT)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        call = health.Check(asked, metadata=there)
        await health_pb2_grpc.HealthStub(beside).Check(asked, metadata=there)
        await asyncio.sleep(1)
        if call.done():
            return False
        watches.pop().cancel()
        await call
        return True


async def test_a_connection_has_a_hundred_calls(deployed: Any) -> None:
    """The next waits for one to end; not as HAProxy is replaced, for then connections are new."""
    end = monotonic() + 60
    while not (waits := await one_more_waits(deployed)) and monotonic() < end:
        pass

    assert waits


@pytest.mark.skipif(not GRPCURL.exists(), reason="needs grpcurl: pip install '.[dev]'")
def test_reflection_is_as_it_was_at_first(cluster: RayCluster, tmp_path: Path) -> None:
    """Serve's: it knows the services, and asks nobody for a token, though calls must have one."""
    tokens = TokenFile(tmp_path / "tokens.yaml")
    tokens.add("ada")
    with cluster.deployed("asking", token_file=str(tokens.path)) as there:
        header = f"application: {there['application']}"
        done = run(GRPCURL, "-plaintext", "-H", header, cluster.target, "list")

    assert done.returncode == 0, done.stderr
    assert {"talkwire.v1.ChatService", "talkwire.v1.ModelService"} <= {*done.stdout.split()}
