"""A running engine's second face, to which the markers of all formats are tokens.

Imports vLLM; so import it only where a test runs.
"""

import json
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from shutil import copytree, ignore_patterns

from vllm.renderers.registry import renderer_from_config
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.input_processor import InputProcessor

from formats import COMMON, RARE

FORMATS = COMMON | RARE


class Face(AsyncLLM):  # type: ignore[misc]  # vLLM's types are not read
    """An AsyncLLM that another one lent its engine, with a tokenizer of its own.

    To the engine's process tokens are numbers, but in grammars: to these they are the words that
    the engine's own tokenizer has for them.
    """

    def __init__(self, llm: AsyncLLM, tokenizer: Path) -> None:
        self.__dict__.update(vars(llm))
        self.vllm_config = copy(llm.vllm_config)
        self.model_config = self.vllm_config.model_config = copy(llm.model_config)
        self.model_config.tokenizer = str(tokenizer)
        self.renderer = renderer_from_config(self.vllm_config)
        self.input_processor = InputProcessor(self.vllm_config, self.renderer)
        self.output_processor = copy(llm.output_processor)  # the requests in it are shared
        self.output_processor.tokenizer = self.renderer.get_tokenizer()
        self._names = llm.renderer.get_tokenizer()

    def shutdown(self, timeout: float | None = None) -> None:
        """Leave the engine to the other one; also in `__del__`."""

    def forced(self, text: str) -> tuple[str, Mapping[int, float]]:
        """Leave the model only this to say: by a structural tag, and a bias of tokens.

        The tag holds it to the letters, the bias to the usual tokens of them: markers and long ones
        before others.
        """
        tokenizer = self.renderer.get_tokenizer()
        ids = tokenizer.encode(text, add_special_tokens=False)
        form = {"type": "const_string", "value": self._names.decode(ids)}
        tag = json.dumps({"type": "structural_tag", "format": form})
        markers = tokenizer.added_tokens_decoder
        return tag, {
            i: 100.0 if i in markers else 9.0 * min(11, len(tokenizer.decode([i]))) for i in ids
        }


def with_markers(model: str, folder: Path) -> Path:
    """Write a model's tokenizer, with the formats' markers in place of its rarest words."""
    copytree(model, folder, ignore=ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    file = folder / "tokenizer.json"
    made = json.loads(file.read_text())
    vocabulary, tokens = made["model"]["vocab"], made["added_tokens"]
    rarest = sorted(vocabulary, key=vocabulary.get, reverse=True)
    markers, special = _markers()
    replaced = dict(zip(rarest, markers, strict=False))
    for word, marker in replaced.items():
        vocabulary[marker] = number = vocabulary.pop(word)
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        tokens.append({"id": number, "content": marker, "special": marker in special, **flags})
    tokens.sort(key=lambda token: token["id"])
    made["model"]["merges"] = [
        pair for pair in made["model"]["merges"] if not replaced.keys() & {*pair, "".join(pair)}
    ]
    file.write_text(json.dumps(made))
    return folder


def _markers() -> tuple[Sequence[str], set[str]]:
    """Name all markers, and those of them that are special tokens wherever they are tokens."""
    added = {marker for form in FORMATS.values() for marker in form.added}
    special = {marker for form in FORMATS.values() for marker in form.special} - added
    return sorted(added | special), special
