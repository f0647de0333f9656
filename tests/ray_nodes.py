"""A Ray cluster of two nodes on this machine: a program, so that Ray stays out of the tests'.

    python ray_nodes.py

Prints the cluster's address, then answers each line that it is told, a JSON list of a step and its
arguments, with one of JSON. Ends, and Ray with it, when there is no more.
"""

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.cluster_utils import Cluster

SECOND = {"second": 1}
OF_A_NODE = {"num_cpus": 8, "num_gpus": 2, "object_store_memory": 100 << 20}


class Nodes:
    """What can be done to them."""

    def __init__(self) -> None:
        Path("/tmp/ray").mkdir(exist_ok=True)  # noqa: S108  # where Cluster looks, and makes none
        head = {**OF_A_NODE, "include_dashboard": False}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        self._others = [self._cluster.add_node(**OF_A_NODE, resources=SECOND)]
        self.address: str = self._cluster.address
        ray.init(address=self.address, log_to_driver=False)

    def chats(self, name: str) -> float:
        """Count the chats that run or wait at all replicas of an application."""
        asked = serve.get_deployment_handle("replica", name).broadcast("record_autoscaling_stats")
        return float(sum(told["chats"] for told in asked.results(timeout_s=10)))

    def running(self, name: str) -> int:
        """Count the replicas that run."""
        application = serve.status().applications[name]
        return int(application.deployments["replica"].replica_states.get("RUNNING", 0))

    def gpus(self) -> float:
        """Count the GPUs that nobody has."""
        return float(ray.available_resources().get("GPU", 0))

    def add_node(self, environment: dict[str, str]) -> None:
        """Have one more node."""
        node = self._cluster.add_node(**OF_A_NODE, resources=SECOND, env_vars=environment)
        self._others.append(node)
        self._cluster.wait_for_nodes()

    def remove_node(self) -> None:
        """Have the last one leave."""
        self._cluster.remove_node(self._others.pop())

    def kill_node(self) -> None:
        """Kill it: its raylet, and so all on it."""
        self._cluster.remove_node(self._others.pop(), allow_graceful=False)

    def delete(self, name: str) -> None:
        """Remove an application."""
        serve.delete(name)

    def end(self) -> None:
        """End Serve, and all nodes."""
        serve.shutdown()
        ray.shutdown()
        self._cluster.shutdown()


def main() -> None:
    """Do as told."""
    nodes = Nodes()
    try:
        _say(nodes.address)
        for line in sys.stdin:
            step, *arguments = json.loads(line)
            _say(getattr(nodes, step)(*arguments))
    finally:
        nodes.end()


def _say(answer: Any) -> None:
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
