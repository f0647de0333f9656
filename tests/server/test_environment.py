"""What vLLM is told before it is imported. Imports no vLLM."""

from pathlib import Path

from talkwire_server.settings import Settings
from talkwire_server.vllm_engine import environment


def test_modelscope_is_asked_for_before_the_import() -> None:
    """`--modelscope` is a variable that vLLM reads as it is imported."""
    told = environment(Settings(modelscope=True), "some/id", on_cpu=False)

    assert told["VLLM_USE_MODELSCOPE"] == "1"
    assert "VLLM_USE_MODELSCOPE" not in environment(Settings(), "some/id", on_cpu=False)


def test_a_local_path_never_touches_the_network(tmp_path: Path) -> None:
    """Hugging Face's libraries are offline for what is on disk, and only for that."""
    assert environment(Settings(), str(tmp_path), on_cpu=True)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in environment(Settings(), "some/id", on_cpu=True)


def test_vllm_renders_within_seconds() -> None:
    """As docs/limits.md says; the operator's own environment goes first."""
    told = environment(Settings(), "some/id", on_cpu=True)

    assert told["VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT"] == "5"


def test_processes_are_spawned_unless_one_may_be_forked() -> None:
    """Nothing forks beside a live gRPC server; only a CPU's engine forks, before there is one."""
    told = environment(Settings(), "some/id", on_cpu=False)

    assert told["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in told
