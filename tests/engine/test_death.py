"""vLLM's process is killed, stands still or raises."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from fault_table import Table
from processes import ServerProcess, launched
from talkwire import Client, Unavailable

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]

CALLS = 4
STALL = 3  # seconds
SHARED = Path("/dev/shm")  # noqa: S108

# Raises where the file beside it is there.
WORKER = """
from pathlib import Path
from talkwire_server.vllm_engine import cpu_worker

class Worker(cpu_worker.Worker):
    def execute_model(self, *args, **kwargs):
        if Path(__file__).with_name("raise").exists():
            raise RuntimeError("made to raise")
        return super().execute_model(*args, **kwargs)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name: sockets in it must have room for theirs."""
    with TemporaryDirectory() as name:
        yield Path(name)


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[ServerProcess]:
    """Serve the embedded model, with a worker that can be made to raise."""
    (folder / "raising.py").write_text(WORKER)
    with launched(
        "--engine=vllm",
        "--max-model-len=1024",
        f"--kv-cache-memory-bytes={128 << 20}",
        "--worker-cls=raising.Worker",
        f"--engine-stall-timeout={STALL}",
        f"--termination-log={folder}/why",
        *flags,
        PYTHONPATH=f"{folder}:{os.environ.get('PYTHONPATH', '')}",
        TMPDIR=str(folder),
    ) as server:
        yield server


def children(server: ServerProcess) -> list[int]:
    """List the processes that a server started: the engine's, that of grammars, others."""
    tasks = Path(f"/proc/{server.process.pid}/task").glob("*/children")
    pids = [int(pid) for task in tasks for pid in task.read_text().split()]
    commands = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in pids}
    return sorted(pids, key=lambda pid: (b"resource_tracker" in commands[pid], -pid))


class Streams:
    """Some calls that would not end by themselves, each in a thread."""

    def __init__(self, client: Client) -> None:
        self.begun = threading.Barrier(CALLS + 1)
        self.ends: list[tuple[float, str]] = []
        self._threads = [
            threading.Thread(target=self._stream, args=(client,)) for _ in range(CALLS)
        ]
        for thread in self._threads:
            thread.start()
        self.begun.wait()

    def _stream(self, client: Client) -> None:
        with client.stream("Tell me a story.", ignore_eos=True, max_tokens=900) as stream:
            next(stream)
            self.begun.wait()
            try:
                stream.wait()
            except Unavailable as error:
                self.ends.append((monotonic(), error.reason))

    def join(self) -> None:
        """Wait for all ends."""
        for thread in self._threads:
            thread.join()


def kill(server: ServerProcess, _folder: Path) -> None:
    """Kill the engine's process."""
    os.kill(children(server)[0], signal.SIGKILL)


def kill_grammars(server: ServerProcess, _folder: Path) -> None:
    """Kill the process that those of grammars come from."""
    os.kill(children(server)[1], signal.SIGKILL)


def stand_still(server: ServerProcess, _folder: Path) -> None:
    """Stop it, so that it makes no step any more."""
    os.kill(children(server)[0], signal.SIGSTOP)


def fail(_server: ServerProcess, folder: Path) -> None:
    """Have it raise in its next step."""
    (folder / "raise").touch()


def left(before: set[Path]) -> set[Path]:
    """List shared memory that is new and that no process has: those of other tests have theirs."""
    new = {*SHARED.iterdir()} - before
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended
            held = maps.read_text()
            new = {path for path in new if f" {path}\n" not in held}
    return {path for path in new if path.exists()}


@pytest.mark.parametrize(
    ("way", "found_in", "reason"),
    [
        (kill, 0, "ended with status -9"),
        (kill_grammars, 0, "grammars ended with status -9"),
        (stand_still, STALL, f"it made no step for {STALL} s, with {CALLS} requests in it"),
        (fail, 0, ""),
    ],
)
def test_the_server_ends_with_its_engine(
    way: Callable[[ServerProcess, Path], None],
    found_in: float,
    reason: str,
    folder: Path,
    table: Table,
) -> None:
    """Calls fail within 2 s as ENGINE_DEAD and health says so; within 5 s all are gone.

    What remains is the reason, in one line: no process, no shared memory, no file.
    """
    shared = {*SHARED.iterdir()}
    with serving(folder) as server, Client(server.target, retry=None) as client:
        started = children(server)
        watch = health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest())
        told = [next(watch).status]
        streams = Streams(client)
        begin = monotonic() + found_in
        way(server, folder)
        streams.join()
        told.append(next(watch).status)
        status, log = server.ends()
        ended = monotonic() - begin
        while any(Path(f"/proc/{pid}").exists() for pid in started):
            sleep(0.05)
        gone = monotonic() - begin

    last = max(at for at, _ in streams.ends) - begin
    seen = f"calls ended after {last:.2f} s (target 2), the server after {ended:.2f} s (target 5)"
    untold = CALLS - [why for _, why in streams.ends].count("ENGINE_DEAD")
    done = (way.__doc__ or "").rstrip(".") + (f", for {found_in:g} s" if found_in else "")
    table.add("engine dies", done, CALLS, untold, f"{seen}, all processes after {gone:.2f} s")
    assert [why for _, why in streams.ends] == ["ENGINE_DEAD"] * CALLS
    assert told == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]
    assert status == 1
    (line,) = (folder / "why").read_text().splitlines()
    assert line.startswith("the engine died: ")
    assert reason in line
    assert line in log
    assert not left(shared)
    assert not [*folder.glob("talkwire-*")]
    assert last < 2
    assert ended < 5


def test_an_engine_that_dies_is_started_anew(folder: Path, table: Table) -> None:
    """With `--restart-engine 1` the server stays, and answers again; a second death ends it."""
    with (
        serving(folder, "--restart-engine=1") as server,
        Client(server.target, retry=None) as client,
    ):
        begin = monotonic()
        kill(server, folder)
        server.logs("starting it anew")
        with pytest.raises(Unavailable) as loading:
            client.chat("hi")
        server.logs(" serving ")
        seconds = monotonic() - begin
        answer = client.chat("What is the capital of France?", temperature=0, max_tokens=16)
        kill(server, folder)
        status, _ = server.ends()

    seen = f"served again after {seconds:.1f} s"
    table.add("engine dies", "with --restart-engine", 1, int("Paris" not in answer.text), seen)
    assert loading.value.reason in ("MODEL_LOADING", "ENGINE_DEAD")
    assert "Paris" in answer.text
    assert status == 1


def test_no_engine_outlives_a_server_that_is_killed(folder: Path) -> None:
    """`kill -9` of the server ends its engine, too."""
    with serving(folder) as server:
        assert server.target
        started = children(server)
        server.signal(signal.SIGKILL)
        while any(Path(f"/proc/{pid}").exists() for pid in started):
            sleep(0.05)
