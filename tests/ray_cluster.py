"""A Ray cluster of two nodes, and what a test does with it. Imports no Ray."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from several import descendants
from terminal import TALKWIRE, free_target

ENVIRONMENT = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_HAPROXY_BALANCE_ALGORITHM": "hdr(session_id)",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",  # its default kills a proxy that starts slowly
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PORT_QUARANTINE_S": "3600",  # see `RayCluster.part_ports`
}
# Where Serve listens, too; no two clusters of a machine may share them.
PORTS = (
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
    "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_HAPROXY_STATS_PORT",
)


def free_port() -> int:
    """Find a port that is free."""
    return int(free_target().rpartition(":")[2])


class RayCluster:
    """Two nodes; HAProxy listens at the first."""

    def __init__(
        self, process: "subprocess.Popen[str]", folder: Path, environment: dict[str, str]
    ) -> None:
        self.environment = environment
        self._process = process
        self._folder = folder
        self._port, self.http_port = free_port(), free_port()
        self.target = f"127.0.0.1:{self._port}"
        self.address = self._answer()

    def tell(self, step: str, *arguments: Any) -> Any:
        """Have the program take a step; return what it answers."""
        assert self._process.stdin
        self._process.stdin.write(f"{json.dumps([step, *arguments])}\n")
        self._process.stdin.flush()
        return self._answer()

    def part_ports(self) -> None:
        """Have the replicas of the nodes listen at ports of their own from now on.

        Serve counts ports a node, and gRPC shares those that are taken; on one machine two replicas
        would have one port, and neither HAProxy nor a test could tell which of them died.
        """
        self.deploy("ports", ray={"num_replicas": 6, "num_cpus": 0, "resources": {"second": 0.01}})
        self.tell("delete", "ports")

    @contextmanager
    def deployed(self, name: str, **flags: Any) -> Iterator[dict[str, str]]:
        """Have an application for the length of the block; yield the metadata that names it."""
        self.deploy(name, **flags)
        try:
            yield {"application": name}
        finally:
            self.tell("delete", name)

    def deploy(self, name: str, *, ray: Any = None, **flags: Any) -> str:
        """Deploy an application; return what the command said."""
        done = self.command(name, ray=ray, **flags)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def command(
        self, name: str, *, ray: Any = None, **flags: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run `talkwire ray deploy` to its end."""
        placement = {
            "name": name,
            "num_cpus": 0.5,
            "resources": {"second": 0.01},
            "http_port": self.http_port,
            "proxy_location": "HeadOnly",
            **(ray or {}),
        }
        content = {"engine": "echo", "port": self._port, "allow_insecure": True, "ray": placement}
        file = self._folder / f"{name}.yaml"
        file.write_text(yaml.safe_dump(content | flags))
        return subprocess.run(
            [*TALKWIRE, "ray", "deploy", str(file)],
            env=os.environ | self.environment | {"RAY_ADDRESS": self.address},
            capture_output=True,
            text=True,
            check=False,
        )

    def replicas(self, name: str) -> list[int]:
        """List the processes that are an application's replicas."""
        title = f"ray::ServeReplica:{name}:replica".encode()
        return [
            pid
            for pid in descendants(self._process.pid)
            if title in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def _answer(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:  # Ray may say something, too
            try:
                return json.loads(line)
            except ValueError:
                continue
        raise AssertionError("the cluster ended")


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """Run a cluster for the length of the block."""
    program = Path(__file__).parent / "ray_nodes.py"
    environment = ENVIRONMENT | {name: str(free_port()) for name in PORTS}
    with (
        (folder / "stderr").open("w") as log,
        subprocess.Popen(
            [sys.executable, str(program)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        yield RayCluster(process, folder, environment)
