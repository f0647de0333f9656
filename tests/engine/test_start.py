"""What an operator reads when a model cannot be served."""

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from processes import run
from support import RunningServer
from talkwire_server.engine import StartError

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]
blind = pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is there")


@blind
def test_a_model_whose_package_is_missing(tmp_path: Path) -> None:
    """One line names the package and the command that installs it, beside the torch there is."""
    config = {"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    done = run(sys.executable, "-m", "talkwire_server", "--port=0", f"--model={tmp_path}")

    *before, line = done.stderr.splitlines()
    assert done.returncode == 1
    assert [text for text in before if "INFO importing vLLM" not in text] == []
    _, _, text = line.partition(" talkwire ERROR ")
    assert text.startswith(
        f"vLLM cannot serve {tmp_path}: LlavaForConditionalGeneration needs torchvision: "
        f"pip install torchvision torch=={version('torch')}"
    )


@blind
async def test_a_package_that_only_the_preparation_of_media_needs(vllm: RunningServer) -> None:
    """Where transformers uses three lines and gives no command, one line gives it."""
    from transformers import SmolVLMVideoProcessor  # only now: the server loads first

    from talkwire_server.vllm_engine.missing import missing

    with pytest.raises(ImportError, match="requires the Torchvision library") as caught:
        SmolVLMVideoProcessor()
    text = missing(caught.value)

    assert text
    assert text.startswith("it needs torchvision: pip install torchvision torch==")
    assert "\n" not in text


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import not_here.deep", "Blind needs not_here: pip install not_here torch=="),
        ("from sys import not_here", "Blind cannot be imported: cannot import name 'not_here'"),
        ("raise OSError('not\\nhere')", "Blind cannot be imported: not here"),
    ],
)
async def test_a_model_that_cannot_be_imported(
    vllm: RunningServer, tmp_path: Path, source: str, text: str
) -> None:
    """Whatever the reason, vLLM's refusal becomes one line that tells it."""
    from vllm.model_executor.models import ModelRegistry  # only now, as above

    from talkwire_server.vllm_engine.missing import missing

    (tmp_path / "blind.py").write_text(source)
    ModelRegistry.register_model("Blind", "blind:Blind")
    with pytest.raises(ValueError, match="Blind") as caught:
        ModelRegistry._raise_for_unsupported(["Blind"])
    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(tmp_path)
        line = missing(caught.value)
    del ModelRegistry.models["Blind"]

    assert line
    assert line.startswith(text)
    assert "\n" not in line


async def test_engine_options_that_make_no_sense(vllm: RunningServer) -> None:
    """What vLLM does not have, what the contract types, what HTTP alone reads: all are named."""
    from talkwire_server.vllm_engine.engine_options import check_engine_options

    check_engine_options(["repetition_detection", "vllm_xargs"])
    with pytest.raises(StartError, match=r"options n no_such stream top_p: .* vllm_xargs"):
        check_engine_options(["top_p", "n", "stream", "no_such", "vllm_xargs"])
