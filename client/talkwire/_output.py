"""The form of an answer's text: how it is asked for, and how the text is read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from json import loads
from typing import Any

from talkwire._fields import put
from talkwire._messages import as_json
from talkwire_proto.v1 import chat_pb2 as pb


@dataclass(frozen=True, slots=True)
class Regex:
    """A text that matches a regular expression as a whole."""

    pattern: str


@dataclass(frozen=True, slots=True, init=False)
class Choice:
    """Exactly one of these texts."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, slots=True)
class Grammar:
    """A text that a grammar describes: EBNF (GBNF) or Lark."""

    text: str


@dataclass(frozen=True, slots=True)
class StructuralTag:
    """A structural tag of xgrammar's, as JSON text or what it says."""

    tag: str | Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reader:
    """How a text is read: `whole` when it has come to its end, `partial` until then."""

    whole: Callable[[str], Any] = str
    partial: Callable[[str], Any] = str


def output_format(output: object) -> pb.OutputFormat:
    """Make the format of what `output` may be. Raises TypeError or ValueError."""
    made = pb.OutputFormat()
    match output:
        case Regex(pattern):
            put(made, "regex", pattern)
        case Choice(values):
            put(made.choice, "values", values)
        case Grammar(text):
            put(made, "grammar", text)
        case StructuralTag(tag):
            put(made, "structural_tag", as_json(tag))
        case _ if output is dict:
            made.json_object = True
        case str() | Mapping():
            made.json_schema = as_json(output)
        case _:
            from talkwire import _pydantic

            made.json_schema = as_json(_pydantic.schema(output))
    return made


def reader(output: object, request: pb.ChatRequest) -> Reader:
    """Choose how the answer to a request is read; where `output` is no type, by its format."""
    if output is not dict and not isinstance(output, _NO_TYPE):
        from talkwire import _pydantic

        return Reader(_pydantic.adapter(output).validate_json, _partial)
    if request.output_format.WhichOneof("format") in ("json_schema", "json_object"):
        return Reader(loads, _partial)
    return Reader()


def _partial(text: str) -> Any:
    from talkwire import _pydantic

    return _pydantic.partial(text)


_NO_TYPE = (type(None), str, Mapping, Regex, Choice, Grammar, StructuralTag)
