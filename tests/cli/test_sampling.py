"""Sampling options as text, both ways."""

from typing import Any

import pytest

from talkwire.cli import sampling
from talkwire_proto.v1 import chat_pb2 as pb

VALUES: list[tuple[str, str, Any, str]] = [
    ("temperature", "0.2", 0.2, "0.2"),
    ("max_tokens", "20", 20, "20"),
    ("ignore_eos", "On", True, "on"),
    ("ignore_eos", "false", False, "off"),
    ("stop", "END", ["END"], "END"),
    ("stop", '"Human being:" END', ["Human being:", "END"], "'Human being:' END"),
    ("stop", r"\n\n ###", ["\n\n", "###"], r"'\n\n' '###'"),
    ("bad_words", "'it is'", ["it is"], "'it is'"),
    ("stop_token_ids", "1, 2 3", [1, 2, 3], "1 2 3"),
    ("logit_bias", "42=-100 7=2.5", {42: -100.0, 7: 2.5}, "42=-100 7=2.5"),
]


@pytest.mark.parametrize(("name", "text", "value", "shown"), VALUES)
def test_a_value_is_read_by_its_kind_and_shown_to_be_read(
    name: str, text: str, value: Any, shown: str
) -> None:
    """Each kind of option has its spelling, and what is shown can be typed again."""
    assert sampling.parse(name, text) == value
    assert sampling.show(value) == shown
    assert sampling.parse(name, shown) == value


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("temperature", "warm", "temperature takes a number, not warm"),
        ("top_k", "1.5", "top_k takes a whole number, not 1.5"),
        ("top_k", "99999999999", "top_k takes a whole number, not 99999999999"),
        ("ignore_eos", "maybe", "ignore_eos takes on or off, not maybe"),
        ("logit_bias", "42", "logit_bias takes token=bias pairs, such as 42=-100 7=2.5, not 42"),
        (
            "stop",
            "Don't",
            r"stop takes words, in quotes where they hold spaces; \n is a newline, not Don't",
        ),
    ],
)
def test_a_wrong_value_is_told_what_is_allowed(name: str, text: str, message: str) -> None:
    """The message names the option, the kind that it takes and what it was given."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # compared below
        sampling.parse(name, text)

    assert str(raised.value) == message


def test_a_wrong_name_is_told_the_nearest_and_all() -> None:
    """The message names what was probably meant, and every option there is."""
    with pytest.raises(ValueError, match="no option temprature") as raised:
        sampling.parse("temprature", "0.2")

    first, _, names = str(raised.value).partition("; there are ")
    assert first == "no option temprature (did you mean temperature?)"
    assert names.split(", ") == list(sampling.KINDS)


def test_every_sampling_field_can_be_set() -> None:
    """The options are the contract's fields, and each has a way to be read."""
    assert list(sampling.KINDS) == [field.name for field in pb.Sampling.DESCRIPTOR.fields]
    assert {kind for kind in sampling.KINDS.values() if kind not in sampling.READERS} == set()
