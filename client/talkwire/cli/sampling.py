"""Sampling options as text, both ways. Checks kinds of values; the server checks their ranges."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_type_hints

from talkwire._request import SamplingOptions
from talkwire.cli.nearest import nearest
from talkwire_proto.v1 import chat_pb2 as pb

KINDS: Mapping[str, Any] = get_type_hints(SamplingOptions)
"""The options by name: the type of each."""


@dataclass(frozen=True, slots=True)
class _Reader:
    """How values of one type are read, and what they look like."""

    read: Callable[[str], Any]
    looks: str


def parse(name: str, text: str) -> Any:
    """Read the value of an option.

    Raises:
        ValueError: There is no such option, or it takes other values; says what is allowed.

    """
    check(name)
    reader = READERS[KINDS[name]]
    try:
        value = reader.read(text)
        pb.Sampling(**{name: value})  # an integer may be too large for its field
    except (KeyError, ValueError):
        msg = f"{name} takes {reader.looks}, not {text}"
        raise ValueError(msg) from None
    return value


def check(name: str) -> None:
    """Raise ValueError if there is no such option."""
    if name not in KINDS:
        msg = f"no option {name}{nearest(name, KINDS)}; there are {', '.join(KINDS)}"
        raise ValueError(msg)


def show(value: Any) -> str:
    """Write a value so that `parse` reads it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Mapping):
        return " ".join(f"{key}={bias:g}" for key, bias in value.items())
    if isinstance(value, list):
        return " ".join(_quoted(item) if isinstance(item, str) else str(item) for item in value)
    return str(value)


def _quoted(word: str) -> str:
    word = word.replace("\n", "\\n").replace("\t", "\\t")
    return word if word.isalnum() else shlex.quote(word)


def _switch(text: str) -> bool:
    return {"on": True, "off": False, "true": True, "false": False}[text.lower()]


def _words(text: str) -> list[str]:
    """Split as a shell does, but take backslashes only for newlines and tabs."""
    lexer = shlex.shlex(text, posix=True)
    lexer.whitespace_split, lexer.escape, lexer.commenters = True, "", ""
    return [word.replace("\\n", "\n").replace("\\t", "\t") for word in lexer]


def _integers(text: str) -> list[int]:
    return [int(word) for word in text.replace(",", " ").split()]


def _biases(text: str) -> dict[int, float]:
    pairs = (pair.split("=") for pair in text.replace(",", " ").split())
    return {int(token): float(bias) for token, bias in pairs}


_WORDS = _Reader(_words, r"words, in quotes where they hold spaces; \n is a newline")

READERS: Mapping[Any, _Reader] = {
    float: _Reader(float, "a number"),
    int: _Reader(int, "a whole number"),
    bool: _Reader(_switch, "on or off"),
    str | Sequence[str]: _WORDS,
    Sequence[str]: _WORDS,
    Sequence[int]: _Reader(_integers, "whole numbers, such as 1 2 3"),
    Mapping[int, float]: _Reader(_biases, "token=bias pairs, such as 42=-100 7=2.5"),
}
