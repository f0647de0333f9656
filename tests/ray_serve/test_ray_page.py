"""docs/ray.md says what there is."""

import re
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from processes import ROOT
from talkwire_server.settings import Settings

PAGE = (ROOT / "docs/ray.md").read_text(encoding="utf-8")
EXAMPLE, _ = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def module(name: str) -> Any:
    """Import a module of the server's, and all that it imports of Ray."""
    pytest.importorskip("ray", reason="needs talkwire[ray]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        return import_module(f"talkwire_server.ray_serve.{name}")


@pytest.fixture(scope="module")
def config() -> Any:
    """What reads files."""
    return module("config")


def test_every_key_is_in_the_table(config: Any) -> None:
    """And nothing else is."""
    keys = re.findall(r"^\| `(\w+)` \| \S", PAGE, re.MULTILINE)
    assert set(keys) == set(config.Replicas.model_fields)


def test_the_file_is_one(config: Any, tmp_path: Path) -> None:
    """The example can be deployed, as far as its words go."""
    (tmp_path / "config.yaml").write_text(EXAMPLE)
    read = config.read(str(tmp_path / "config.yaml"))

    assert read.settings.model == "Qwen/Qwen3-0.6B"
    assert read.replicas.autoscaling_config
    assert read.replicas.autoscaling_config.max_replicas == 4


def test_metrics_and_no_replica_are_refused(config: Any, tmp_path: Path) -> None:
    """Who asks for replicas by HTTP would have one started."""
    scaling = "{min_replicas: 0, max_replicas: 2, target_ongoing_requests: 4}"
    file = tmp_path / "config.yaml"
    file.write_text(f"""engine: echo
metrics_port: 0
allow_insecure: true
ray: {{autoscaling_config: {scaling}}}
""")
    with pytest.raises(ValueError, match="metrics_port: with min_replicas 0 Prometheus"):
        config.read(str(file))

    file.write_text(file.read_text().replace("min_replicas: 0", "min_replicas: 1"))
    assert config.read(str(file)).settings.metrics_port == 0


@pytest.mark.parametrize(
    ("flags", "gpus"),
    [
        ([], 1),
        (["--tensor-parallel-size=4"], 4),
        (["-tp", "2", "-pp=2", "--data-parallel-size", "2", "--max-num-seqs=8"], 8),
    ],
)
def test_a_replica_has_a_gpu_for_each_worker_of_vllm(
    config: Any, flags: list[str], gpus: int
) -> None:
    """As many as the flags of parallelism multiply to."""
    assert config.workers(flags) == gpus


def test_a_size_that_is_none_is_named(config: Any) -> None:
    """With its flag."""
    with pytest.raises(ValueError, match=r"--tensor-parallel-size.*'two'"):
        config.workers(["--tensor-parallel-size=two"])


@pytest.mark.parametrize(
    ("flags", "on"),
    [
        ({}, True),
        ({"reflection": False}, False),
        ({"token_file": "tokens.yaml"}, False),
        ({"token_file": "tokens.yaml", "open_reflection": True}, True),
    ],
)
def test_reflection_is_asked_for_where_no_tokens_are(flags: dict[str, Any], on: bool) -> None:
    """Unless the operator opens it."""
    assert module("application").reflects(Settings(**flags)) == on
