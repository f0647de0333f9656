"""vLLM's data parallel: two engines behind one server, on one machine."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

from processes import launched
from several import alive, descendants
from talkwire import Client

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]


def computed(pids: list[int]) -> int:
    """Sum the time that processes have computed, in hundredths of a second."""
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats)


def test_two_engines_share_the_chats() -> None:
    """`--data-parallel-size 2`: both compute, answers are one engine's, and none is left behind.

    They are spawned, and log as the server does.
    """
    with launched(
        "--engine=vllm",
        "--data-parallel-size=2",
        "--max-model-len=512",
        f"--kv-cache-memory-bytes={64 << 20}",
        "--log-format=json",
        "--log-level=debug",
    ) as server:
        of_engine = json.loads(server.logs('"logger": "vllm.v1.engine.core"'))
        serving = json.loads(server.logs('"message": "serving '))
        target = serving["message"].rpartition(" on ")[2].split()[0]
        pids = descendants(server.process.pid)
        engines = {
            pid: [pid, *descendants(pid)]
            for pid in pids
            if b"EngineCore_DP" in Path(f"/proc/{pid}/cmdline").read_bytes()
        }
        before = [computed(each) for each in engines.values()]
        with Client(target, temperature=0) as client, ThreadPoolExecutor(8) as threads:
            answers = [*threads.map(client.chat, ["What is the capital of France?"] * 8)]
        after = [computed(each) for each in engines.values()]
        server.signal(signal.SIGTERM)
        status, _ = server.ends()

    one, other = (now - then for now, then in zip(after, before, strict=True))
    assert of_engine["level"] == "info"
    assert {answer.text for answer in answers} == {"The capital of France is Paris."}
    assert min(one, other) > max(one, other) / 4
    assert status == 0
    assert not any(alive(pid) for pid in pids)
