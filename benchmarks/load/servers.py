"""Server processes: start one in a session of its own, wait until it serves, end all of it."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from load import kernel


class NotServing(Exception):
    """A server did not start. The message has the end of its log."""


class ServerProcess:
    """A server, and what the kernel says of it. Its engine's processes are not counted."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    @property
    def frontends(self) -> list[int]:
        """Its processes but those that compute the model."""
        return [pid for pid in kernel.session(self._pid) if not kernel.is_engine(pid)]

    def cpu(self) -> float:
        """Return the seconds that its frontends have computed."""
        return sum(map(kernel.cpu, self.frontends))

    def resident(self) -> float:
        """Return the memory of the largest frontend, MB."""
        return max(map(kernel.resident, self.frontends))


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def serving(
    command: Sequence[str], port: int, serves: Callable[[int], bool], log: Path
) -> Iterator[ServerProcess]:
    """Run a server for the length of the block, however long its start takes.

    Raises:
        NotServing: It ended before it served.

    """
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while not serves(port):
            if process.poll() is not None:
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
                raise NotServing(f"it did not start:\n{tail}")
            time.sleep(0.05)
        yield ServerProcess(process.pid)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(30)
        end_session(process.pid)
        process.wait()


def serves_grpc(port: int) -> bool:
    """Tell whether gRPC's health on a port says SERVING."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, suppress(grpc.RpcError):
        stub = health_pb2_grpc.HealthStub(channel)
        health = stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        return bool(health.status == health_pb2.HealthCheckResponse.SERVING)
    return False


def serves_http(port: int) -> bool:
    """Tell whether /health of an HTTP server answers well."""
    url = f"http://127.0.0.1:{port}/health"
    with suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return bool(response.status == 200)
    return False


def end_session(leader: int) -> None:
    """End what is left of a session; a SIGTERM amid vLLM's start can be lost."""
    while left := kernel.session(leader):
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
