"""The embedded model as it is really made: downloaded, checked, dequantized, kept."""

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from talkwire_server import model

pytestmark = [
    pytest.mark.skipif(find_spec("gguf") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(600),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield model.prepare()
        assert model.remove()


def test_the_cache_holds_nothing_but_the_model(folder: Path) -> None:
    assert folder == model.location()
    assert model.is_prepared()
    assert sorted(path.name for path in folder.parent.iterdir()) == [model.NAME, "lock"]
    assert sorted(path.name for path in folder.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_the_configuration_says_nothing_of_how_it_was_made(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["max_position_embeddings"] == 8192
    assert "_model_name_or_path" not in config
    assert "quantization_config" not in config


def test_an_answer_ends_and_is_sampled_as_the_model_card_says(folder: Path) -> None:
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "do_sample": True,
        "temperature": 0.2,
        "top_p": 0.9,
        "max_new_tokens": 256,
    }


def test_the_weights_are_whole_and_in_bfloat16(folder: Path) -> None:
    with (folder / "model.safetensors").open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    del tensors["__metadata__"]
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert tensors["model.embed_tokens.weight"]["shape"] == [49152, 576]
    assert len([name for name in tensors if name.startswith("model.layers.")]) == 30 * 9
    assert "lm_head.weight" not in tensors  # tied to the embedding


def test_the_tokenizer_knows_the_turns_of_a_chat(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert (settings["bos_token"], settings["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert "<|im_start|>assistant" in (folder / "chat_template.jinja").read_text()
