"""Several frontends on one vLLM: they share its engine, and each can be lost alone."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from time import sleep

import pytest

from scraping import Page
from several import Several, alive, descendants, several
from talkwire import Client, Regex, Stream, Unavailable
from terminal import free_target

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]

QUESTION = "What is the capital of France?"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a short name: sockets in it must have room for theirs."""
    with TemporaryDirectory() as name:
        yield Path(name)


def serving(folder: Path, *flags: str) -> AbstractContextManager[Several]:
    """Serve the embedded model, two answers at once."""
    return several(
        "--engine=vllm",
        "--max-num-seqs=2",
        f"--kv-cache-memory-bytes={1 << 30}",
        f"--termination-log={folder}/why",
        *flags,
        TMPDIR=str(folder),
    )


def endless(client: Client) -> AbstractContextManager[Stream]:
    """Ask for more than is generated in minutes."""
    return client.stream("Tell me a story.", ignore_eos=True, max_tokens=8000)


def ask(client: Client) -> str:
    """Ask something short, held to a form by a process of its own."""
    answer = client.chat(QUESTION, temperature=0, max_tokens=16, output=Regex("(Paris|Rome)!+"))
    return answer.text


def engine(server: Several) -> int:
    """Find the engine's process."""
    (found,) = (
        pid
        for pid in descendants(server.server.process.pid)
        if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return found


def test_a_frontend_that_dies_leaves_the_engine_to_others(folder: Path) -> None:
    """Another's stream goes on, a new one takes its place, and nobody's request holds a slot.

    vLLM's metrics are of all of them, and forget nothing of the one that died.
    """
    metrics = free_target()
    with serving(folder, f"--metrics-port={metrics.partition(':')[2]}") as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            assert ask(first) == ask(second)
            before = Page(f"http://{metrics}/metrics")
            with endless(second) as lives, endless(first) as dies:
                next(lives), next(dies)
                os.kill(one, signal.SIGKILL)
                with pytest.raises(Unavailable):
                    dies.wait()
                (new,) = {*server.settled(without=one)} - {other}
                server.server.logs("another takes the place of")
                with server.client(new) as third:
                    assert third.ready(timeout=120)
                    # The engine has two slots, and the other stream has one of them.
                    assert ask(third).startswith("Paris")
                    after = Page(f"http://{metrics}/metrics")
                assert next(lives)
        server.server.signal(signal.SIGTERM)
        status, log = server.server.ends()

    assert status == 0
    assert "Traceback" not in log
    assert not [*folder.glob("talkwire-*")]
    name, stop = "vllm:request_success_total", {"finished_reason": "stop"}
    assert [page.value(name, **stop) for page in (before, after)] == [2, 3]
    assert after.value("vllm:generation_tokens_total") > before.value(
        "vllm:generation_tokens_total"
    )
    assert after.value("vllm:num_requests_running") in (1, 2)  # as one of them was told last


def test_all_end_with_their_engine(folder: Path) -> None:
    """With `--restart-engine 1` they stay the first time; their calls fail as ENGINE_DEAD."""
    with serving(folder, "--restart-engine=1") as server:
        pids = server.pids
        for _ in range(2):
            lose(server)
            if "starting it anew" in server.server.logs("the engine died"):
                server.server.logs(" serving ")
        status, _ = server.server.ends()
        gone = descendants(server.server.process.pid)

    assert len(pids) == 2
    assert status == 1
    assert not gone
    assert (folder / "why").read_text() == ("the engine died: EngineCore ended with status -9\n")


def lose(server: Several) -> None:
    """Kill the engine amid a stream of each frontend."""
    with ExitStack() as stack:
        clients = [stack.enter_context(server.client(pid)) for pid in server.pids]
        streams = [stack.enter_context(endless(client)) for client in clients]
        for stream in streams:
            next(stream)
        os.kill(engine(server), signal.SIGKILL)
        for stream in streams:
            with pytest.raises(Unavailable) as lost:
                stream.wait()
            assert lost.value.reason == "ENGINE_DEAD"


def test_nothing_outlives_a_server_that_is_killed(folder: Path) -> None:
    """`kill -9` of the first process ends frontends, engine and all."""
    with serving(folder) as server:
        pids = descendants(server.server.process.pid)
        server.server.process.kill()
        while any(map(alive, pids)):
            sleep(0.05)

    assert len(pids) >= 5
