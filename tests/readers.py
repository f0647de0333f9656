"""Answers in a model's format, cut into pieces as vLLM cuts them, and what is read of them.

Imports vLLM; so import it only where a test runs.
"""

import json
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import mistral_common
from openai_harmony import HarmonyEncodingName, load_harmony_encoding
from tokenizers import AddedToken, Tokenizer, decoders, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import DelegatingParser, Parser
from vllm.parser.parser_manager import ParserManager
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.tokenizers import TokenizerLike
from vllm.tokenizers.hf import get_cached_tokenizer
from vllm.tokenizers.mistral import MistralTokenizer
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from formats import TOOLS, Format
from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import model
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call
from talkwire_server.vllm_engine.parsers import ConstrainedToolParser
from talkwire_server.vllm_engine.reading import Reading

Piece = tuple[str, list[int]]


@dataclass(frozen=True)
class Read:
    """What was read of an answer: its text, its thoughts, its calls with their arguments."""

    text: str
    reasoning: str
    calls: Sequence[tuple[str, str]]

    def loosely(self) -> "Read":
        """Forget white space at the ends and how JSON is spelled."""
        calls = [(name, _spelled(arguments)) for name, arguments in self.calls]
        return Read(self.text.strip(), self.reasoning.strip(), calls)


def _spelled(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments))
    except ValueError:
        return arguments


class Reader:
    """Reads answers to one request, with the parsers of one format.

    Args:
        form: The format; its markers become tokens of the embedded model's tokenizer.
        asked: More of vLLM's request. Without it there are tools, and the model may call them.

    """

    def __init__(self, form: Format, **asked: Any) -> None:
        self.tokenizer = self.tokenizer_of(form)
        self.parsers = parsers(form, self.tokenizer)
        self.prompt = [1, *self.encode(form.prompt)]
        self._kwargs = dict(form.kwargs)
        if form.tools:
            asked = {"tools": TOOLS, "tool_choice": "auto", **asked}
        self.request = ChatCompletionRequest(
            messages=[{"role": "user", "content": "Hi"}], stream=True, **asked
        )
        self.request = self.parser().adjust_request(self.request)

    def tokenizer_of(self, form: Format) -> TokenizerLike:
        """Return a tokenizer for a format."""
        return tokenizer(tuple(form.special), tuple(form.added))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def parser(self) -> Parser:
        """Make vLLM's parser, for one answer."""
        request = self.request
        return self.parsers(self.tokenizer, request.tools, chat_template_kwargs=self._kwargs)

    def answer(self, text: str) -> list[Piece]:
        """Return the pieces of a whole answer, one a token as vLLM makes them."""
        return self.pieces([*self.encode(text), self.tokenizer.eos_token_id], ended=True)

    def said(self, words: Sequence[str], end: str = "") -> list[list[Piece]]:
        """Return the pieces of each word of a whole answer, one a token as vLLM makes them."""
        ids = [self.encode(word) for word in words]
        ids[-1] += self.encode(end) if end else [self.tokenizer.eos_token_id]
        pieces = iter(self.pieces([token for word in ids for token in word], ended=True))
        return [[next(pieces) for _ in word] for word in ids]

    def pieces(
        self, ids: Sequence[int], *, ended: bool = False, stop: Sequence[str] = ()
    ) -> list[Piece]:
        """Return the pieces of an answer that ended by itself, at a stop word or by its length."""
        request = EngineCoreRequest(
            request_id="",
            prompt_token_ids=self.prompt,
            mm_features=None,
            sampling_params=SamplingParams(
                skip_special_tokens=self.request.skip_special_tokens,
                spaces_between_special_tokens=self.request.spaces_between_special_tokens,
                stop=list(stop),
                output_kind=RequestOutputKind.DELTA,
            ),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        detokenizer = IncrementalDetokenizer.from_new_request(self.tokenizer, request)
        made = []
        for i, token in enumerate(ids, 1):
            last = i == len(ids)
            word = detokenizer.update([token], ended and last)
            text = detokenizer.get_next_output_text(last or word is not None, True)
            made.append((text, [token]))
            if word is not None:
                break
        return made

    def read(self, pieces: Sequence[Piece], *, aborted: bool = False, **how: bool) -> Read:
        """Read an answer piece by piece; one that is aborted ends without another token."""
        reading = self.reading(**how)
        deltas = []
        for i, (text, ids) in enumerate(pieces, 1):
            deltas.append(pb.ChatStreamResponse())
            finished = i == len(pieces) and not aborted
            reading.read(deltas[-1], text, ids, finished=finished)
        if aborted:
            deltas.append(pb.ChatStreamResponse())
            reading.read(deltas[-1], "", [], finished=True)
        return gathered(deltas)

    def reading(self, *, exclude_reasoning: bool = False) -> Reading:
        """Make what reads one answer."""
        return Reading(
            self.parser(), self.request, self.prompt, exclude_reasoning=exclude_reasoning
        )

    def read_as_vllm_streams(self, pieces: Sequence[Piece]) -> Read:
        """Read an answer with vLLM's parser as its HTTP server does for a stream."""
        parser = self.parser()
        text = reasoning = ""
        calls: dict[int, list[str]] = {}
        for i, (part, ids) in enumerate(pieces, 1):
            found = parser.parse_delta(
                part, ids, self.request, self.prompt, finished=i == len(pieces)
            )
            text += (found and found.content) or ""
            reasoning += (found and found.reasoning) or ""
            for call in (found and found.tool_calls) or ():
                told = calls.setdefault(call.index, ["", ""])
                told[0] += call.function.name or ""
                told[1] += call.function.arguments or ""
        return Read(text, reasoning, [(name, arguments) for name, arguments in calls.values()])

    def read_as_vllm_does(self, pieces: Sequence[Piece]) -> Read:
        """Read an answer with vLLM's parser as its HTTP server does when not asked to stream."""
        ((text, ids),) = merged(pieces)
        parser = self.parser()
        parser.set_prompt_token_ids(self.prompt)
        reasoning, content, calls = parser.parse(text, self.request, True, ids)
        return Read(content or "", reasoning or "", [(c.name, c.arguments) for c in calls or ()])


class HarmonyReader(Reader):
    """Reads gpt-oss's answers, which it writes with its own tokens."""

    def tokenizer_of(self, form: Format) -> TokenizerLike:
        return harmony_tokenizer()

    def encode(self, text: str) -> list[int]:
        ids: list[int] = harmony().encode(text, allowed_special="all")
        return ids


class MistralReader(Reader):
    """Reads the answers of a Mistral model with one of its own tokenizers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        super().__init__(Format("mistral"))

    def tokenizer_of(self, form: Format) -> TokenizerLike:
        return MistralTokenizer.from_pretrained(self._folder)

    def encode(self, text: str) -> list[int]:
        ids = []
        for part in re.split(r"(\[TOOL_CALLS\])", text):
            if part == "[TOOL_CALLS]":
                ids.append(self.tokenizer.tokenizer.get_special_token(part))
            else:
                ids += super().encode(part)
        return ids


def mistral_tokenizer(folder: Path, source: str, name: str) -> Path:
    """Lay a tokenizer that mistral_common brings along into a folder, as a model has it."""
    (folder / name).symlink_to(Path(mistral_common.__path__[0]) / "data" / source)
    return folder


@cache
def tokenizer(special: tuple[str, ...], added: tuple[str, ...]) -> TokenizerLike:
    """Return the embedded model's tokenizer with more tokens."""
    made = AutoTokenizer.from_pretrained(model.prepare())
    made.add_tokens(list(added))
    made.add_tokens(
        [AddedToken(marker, special=True, normalized=False) for marker in special],
        special_tokens=True,
    )
    return get_cached_tokenizer(made)


@cache
def harmony() -> Any:
    """Return gpt-oss's encoding; its package brings the vocabulary along."""
    return load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS)


@cache
def harmony_tokenizer() -> TokenizerLike:
    """Return a tokenizer that knows gpt-oss's tokens, if only how to decode them."""
    encoding = harmony()
    names = {
        encoding.encode(name, allowed_special="all")[0]: name
        for name in encoding.special_tokens_set
    }
    letters = bytes_to_unicode()
    vocabulary = {
        "".join(letters[byte] for byte in encoding._inner.decode_bytes([token])): token
        for token in range(min(names))
    }
    made = Tokenizer(models.BPE(vocabulary, merges=[]))
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [names.get(token, f"<|none_{token}|>") for token in range(min(names), max(names) + 1)]
    )
    return get_cached_tokenizer(
        PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|return|>")
    )


def parsers(form: Format, tokenizer: TokenizerLike) -> type[Parser]:
    """Compose vLLM's parsers of a format as `make_renderer` does."""
    made: type[Parser] | None = ParserManager.get_parser(
        tool_parser_name=form.tools,
        reasoning_parser_name=form.reasoning,
        enable_auto_tools=bool(form.tools),
        is_harmony=form.tools == "openai",
        tokenizer=tokenizer,
    )
    if made and form.tools:
        return made
    bases = (made or DelegatingParser,)
    return type("Parser", bases, {"tool_parser_cls": ConstrainedToolParser})


def merged(pieces: Sequence[Piece], cuts: Iterable[int] = ()) -> list[Piece]:
    """Merge pieces between cuts, as vLLM does for whoever looks seldom."""
    bounds = [0, *cuts, len(pieces)]
    return [
        ("".join(text for text, _ in part), [token for _, ids in part for token in ids])
        for start, end in pairwise(bounds)
        for part in [pieces[start:end]]
    ]


def all_cuts(pieces: Sequence[Piece], *, step: int = 1) -> Iterator[list[Piece]]:
    """Cut an answer everywhere, at every place alone, and four times anywhere."""
    places = range(1, len(pieces))
    yield list(pieces)
    for place in places[::step]:
        yield merged(pieces, [place])
    dice = random.Random(0)
    for _ in range(4):
        yield merged(pieces, sorted(dice.sample(places, min(len(places), dice.randint(2, 9)))))


async def echoed(text: str, *, final_only: bool = False) -> list[str]:
    """Return what the echo engine says when it is told a text, delta by delta."""
    request = make(pb.ChatRequest, query=text, include={"token_ids": True})
    call = Call("id", "echo", request, final_only=final_only)
    deltas = [delta async for delta in EchoEngine(["echo"], "", 0).stream(call)]
    assert final_only or all(len(delta.token_ids) == 1 for delta in deltas if delta.text)
    return [delta.text for delta in deltas if delta.text]


def gathered(deltas: Iterable[pb.ChatStreamResponse]) -> Read:
    """Put deltas together, and check that each call is told as the contract says."""
    text = reasoning = ""
    calls: dict[int, list[str]] = {}
    for delta in deltas:
        text += delta.text
        reasoning += delta.reasoning
        for part in delta.tool_calls:
            assert bool(part.id) == bool(part.name) == (part.index not in calls)
            assert part.index in calls or part.index == len(calls)
            call = calls.setdefault(part.index, [part.name, ""])
            call[1] += part.arguments
    return Read(text, reasoning, [(name, arguments) for name, arguments in calls.values()])
