"""One cluster for all tests of Ray, as long as they last, and an application on it."""

import asyncio
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from ray_cluster import RayCluster, ray_cluster


class Deployed:
    """An application on a cluster, with what tests look at of a `support.RunningServer`."""

    def __init__(self, cluster: RayCluster, name: str) -> None:
        self.target = cluster.target
        self.cluster = cluster
        self.name = name
        self.metadata = {"application": name}  # proxies may still know of one that was deleted

    def deploy(self) -> None:
        """Deploy it, maybe anew: two replicas, one on each node, that take 20 ms a word."""
        placement = {"num_replicas": 2, "max_replicas_per_node": 1, "resources": {}}
        self.cluster.deploy(self.name, echo_delay=0.02, default_system="Be brief.", ray=placement)

    @property
    def server(self) -> "Deployed":
        """Itself: there is but one thing to look at."""
        return self

    engine = admission = server

    @property
    def unfinished(self) -> int:
        """How many chats run or wait."""
        return int(self.cluster.tell("chats", self.name))

    async def empty(self) -> None:
        """Return when none does."""
        while await asyncio.to_thread(lambda: self.unfinished):  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.01)


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Two nodes."""
    if find_spec("ray") is None:
        pytest.skip("needs talkwire[ray]")
    with ray_cluster(tmp_path_factory.mktemp("ray")) as nodes:
        nodes.part_ports()
        yield nodes


@pytest.fixture(scope="package")
def deployed(cluster: RayCluster) -> Deployed:
    """A slow echo server of two nodes."""
    slow = Deployed(cluster, "slow")
    slow.deploy()
    return slow
