"""Keeps a caller's text from forging control tokens. Renders nothing.

vLLM tokenizes a rendered prompt whole, so that `<|im_start|>` in a text would be the token. With an
invisible character after its first one it is ordinary tokens. So is the end of a text that whatever
follows could make a control token of.
"""

import re
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from typing import Any

from vllm.config import ModelConfig
from vllm.model_executor.model_loader import get_model_cls
from vllm.tokenizers import TokenizerLike

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import StartError
from talkwire_server.errors import InvalidRequest, Violation
from talkwire_server.settings import Settings
from talkwire_server.texts import change_texts

_BREAKS = "\u200b\u2060 "  # the first that the tokenizer does not read over is taken
_BLOCK = 1 << 16  # characters: while one is searched no other thread runs


def control_tokens(
    settings: Settings, config: ModelConfig, tokenizer: TokenizerLike, template: str
) -> "ControlTokens | None":
    """Make what `--special-tokens-in-text` asks for; nothing where all is allowed."""
    if settings.special_tokens_in_text == "allow":
        return None
    placeholders: set[str | None] = set()
    if config.supports_multimodal_inputs:
        model, kinds = get_model_cls(config), ("image", "audio", "video")
        for kind, number in product(kinds, range(1, settings.max_media + 1)):
            with suppress(ValueError):  # which the model does not take
                placeholders.add(model.get_placeholder_str(kind, number))
    refuses = settings.special_tokens_in_text == "refuse"
    return ControlTokens(tokenizer, template, filter(None, placeholders), refuses=refuses)


class ControlTokens:
    """The control tokens of a model: all that its tokenizer calls special, and more.

    More are what stands for media, and other added tokens that the chat template writes, like
    Qwen's `<tool_call>`. These the model's own messages may hold: templates look for `</think>`
    there.

    Args:
        tokenizer: The model's.
        template: Its chat template.
        placeholders: What stands for media in a prompt.
        refuses: Whether to refuse such texts instead of breaking them.

    Raises:
        StartError: The tokenizer reads over whatever would break them.

    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        template: str,
        placeholders: Iterable[str] = (),
        *,
        refuses: bool = False,
    ) -> None:
        added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
        special = {str(token) for token in added if token.special}
        special |= {*tokenizer.all_special_tokens, *placeholders}
        written = {str(token) for token in added if str(token) in template}
        marks = special | {mark for mark in written if not (mark.isspace() or mark.isalnum())}
        self._refuses = refuses
        self._special, self._marks = _Marks(special), _Marks(marks)
        self._break = _breaking(tokenizer, self._marks)
        if not (self._break or refuses):
            text = "this tokenizer cannot escape control tokens: --special-tokens-in-text refuse"
            raise StartError(text)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        normalizes = backend and backend.normalizer and any(token.normalized for token in added)
        self._normalizer: Any = backend.normalizer if backend and normalizes else None

    def broken(self, request: pb.ChatRequest) -> pb.ChatRequest:
        """Return a request whose texts make no control token; the same, where they make none.

        Raises:
            InvalidRequest: A text holds one that cannot be broken, or shall be refused.

        """
        faults: list[Violation] = []
        prefill = f"messages[{len(request.messages) - 1}]."
        goes_on = request.template.continue_final_message
        broken = False

        def look(path: str, text: str, by_model: bool) -> str:
            nonlocal broken
            made = change(path, text, by_model)
            if mark := self._refused(text, made, self._special if by_model else self._marks):
                faults.append(Violation(path, f"holds the control token {mark}"))
            broken = broken or made != text
            return text

        def change(path: str, text: str, by_model: bool) -> str:
            marks = self._special if by_model else self._marks
            ends = not (goes_on and by_model and path.startswith(prefill))
            ends = ends and path != "continuation.text"  # the model goes on right there
            return marks.broken(text, self._break, ends=ends)

        change_texts(request, look)
        if faults:
            raise InvalidRequest(faults)
        if not broken:
            return request
        made = pb.ChatRequest()
        made.CopyFrom(request)
        change_texts(made, change)
        return made

    def _refused(self, text: str, made: str, marks: "_Marks") -> str:
        """Return the control token in a text that must not be sent on, or nothing."""
        if self._refuses and (mark := marks.first(text)):
            return mark
        return marks.first(self._normalizer.normalize_str(made)) if self._normalizer else ""


class _Marks:
    """Finds marks in a text; of each match only the first character is consumed: they overlap."""

    def __init__(self, marks: Iterable[str]) -> None:
        self.texts = sorted((mark for mark in marks if len(mark) > 1), key=len, reverse=True)
        self._longest = max(map(len, self.texts), default=0)
        tree: dict[str, Any] = {}
        for mark in self.texts:
            node = tree
            for character in mark:
                node = node.setdefault(character, {})
            node[""] = {}
        self._whole = re.compile(_first(tree, ""))
        self._begun = re.compile(_first(tree, r"|\Z"))

    def broken(self, text: str, character: str, *, ends: bool = False) -> str:
        """Break all marks in a text; with `ends` what its end may be the beginning of, too."""
        pattern, pieces, done = self._begun if ends else self._whole, list[str](), 0
        for start in range(0, len(text), _BLOCK):
            # As far as a mark reaches that begins at the block's end; none is cut off before it.
            for found in pattern.finditer(text, start, start + _BLOCK + self._longest):
                if found.start() >= start + _BLOCK:
                    break
                pieces += text[done : found.end()], character
                done = found.end()
        return "".join(pieces) + text[done:]

    def first(self, text: str) -> str:
        """Return the first mark in a text, or nothing."""
        found = self._whole.search(text)
        marks = (mark for mark in self.texts if found and text.startswith(mark, found.start()))
        return next(marks, "")


def _first(tree: dict[str, Any], end: str) -> str:
    """Write the pattern of the first character of whatever the tree holds."""
    ways = (f"{re.escape(one)}(?={_rest(node, end)})" for one, node in tree.items())
    return "|".join(ways) or r"(?!)"


def _rest(node: dict[str, Any], end: str) -> str:
    if "" in node:
        return ""
    ways = "|".join(re.escape(one) + _rest(below, end) for one, below in node.items())
    return f"(?:{ways}{end})"


def _breaking(tokenizer: TokenizerLike, marks: _Marks) -> str:
    added = tokenizer.get_added_vocab()
    ids = {added[text] for text in marks.texts if text in added}
    for character in _BREAKS:
        broken = marks.broken("\n".join(marks.texts), character)
        if ids.isdisjoint(tokenizer.encode(broken, add_special_tokens=False)):
            return character
    return ""
