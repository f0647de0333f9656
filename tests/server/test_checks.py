"""What a request may say: every rule, and every fault at once."""

import math

import pytest

from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import violations


def faults(**fields: object) -> dict[str, str]:
    request = make(pb.ChatRequest, **{"query": "x", **fields})
    return {v.field: v.description for v in violations(request)}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 2.5], [-0.1, math.nan, math.inf]),
        ("top_p", [0.1, 1], [0, 1.01, math.nan]),
        ("top_k", [-1, 0, 5], [-2]),
        ("min_p", [0, 1], [-0.1, 1.1]),
        ("max_tokens", [1], [0, -5]),
        ("min_tokens", [0, 3], [-1]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("repetition_penalty", [0.1, 2], [0, -1, math.inf]),
    ],
)
def test_the_ranges_of_sampling(name: str, good: list[float], bad: list[float]) -> None:
    """The bounds that chat.proto names hold, and NaN is outside of all."""
    for value in good:
        assert faults(sampling={name: value}) == {}
    for value in bad:
        (found,) = faults(sampling={name: value})

        assert found == f"sampling.{name}"


def test_all_faults_are_found_at_once() -> None:
    """Each bad field has its exact path."""
    request = make(
        pb.ChatRequest,
        messages=[{"role": 77, "text": "a"}, {"role": pb.ROLE_USER}],
        request_id="no spaces",
        sampling={
            "stop": ["ok", ""],
            "bad_words": [""],
            "stop_token_ids": [1, -1],
            "allowed_token_ids": [-2],
            "logit_bias": {-1: 1, 5: 101},
            "max_tokens": 2,
            "min_tokens": 3,
        },
        template={"continue_final_message": True, "kwargs": {"messages": 1, "mood": 2}},
    )

    assert {v.field: v.description for v in violations(request)} == {
        "messages[0].role": "unknown role 77",
        "messages[1].text": "required",
        "template.kwargs.messages": "is the server's to set",
        "template.continue_final_message": "the last message must be the assistant's",
        "request_id": "must match [A-Za-z0-9._:-]{1,128}",
        "sampling.min_tokens": "must be <= max_tokens (2), got 3",
        "sampling.stop[1]": "must not be empty",
        "sampling.bad_words[0]": "must not be empty",
        "sampling.stop_token_ids[1]": "must be >= 0, got -1",
        "sampling.allowed_token_ids[0]": "must be >= 0, got -2",
        "sampling.logit_bias[-1]": "must be keyed by token ids >= 0, got -1",
        "sampling.logit_bias[5]": "must be in [-100, 100], got 101",
    }


def test_something_must_be_said() -> None:
    """Neither query nor messages is a fault; an empty message of the assistant is none."""
    assert faults(query="") == {"query": "required unless messages are given"}
    assert faults(query="", template={"continue_final_message": True}) == {
        "query": "required unless messages are given",
        "template.continue_final_message": "the last message must be the assistant's",
    }
    assert faults(messages=[{"role": pb.ROLE_ASSISTANT}]) == {}
