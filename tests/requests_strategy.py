"""Random ChatRequests, good and bad, for Hypothesis. Knows the contract, and no server."""

import math
import os
import random
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeAlias

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from support import make
from talkwire_proto.v1 import chat_pb2 as pb

Strategy: TypeAlias = st.SearchStrategy[Any]


def chosen_seed(config: pytest.Config) -> int:
    """Choose what the requests come of, and print it: any, in CI always the same.

    `pytest --hypothesis-seed=N` makes those of an earlier run again.
    """
    given = config.getoption("--hypothesis-seed")
    number = int(given) if given else 0 if "CI" in os.environ else random.getrandbits(32)
    print(f"--hypothesis-seed={number}")  # noqa: T201
    return number


def examples(count: int, number: int) -> list[pb.ChatRequest]:
    """Make so many different requests, the same ones for the same seed."""
    made: list[pb.ChatRequest] = []

    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(chat_requests())
    def collect(request: pb.ChatRequest) -> None:
        made.append(request)

    collect()
    return made


def chat_requests() -> st.SearchStrategy[pb.ChatRequest]:
    """Make requests: some keep all the rules, some none, some break a few."""
    good, bad = _good(), _bad(pb.ChatRequest.DESCRIPTOR)
    return st.one_of(good, good, bad, st.builds(_merged, good, bad))


def _merged(one: pb.ChatRequest, other: pb.ChatRequest) -> pb.ChatRequest:
    one.MergeFrom(other)
    return one


def _some(table: Mapping[str, Strategy], most: int) -> Strategy:
    """Make dicts with a few of the keys of a table, and values that go with them."""
    pairs = st.one_of(*(st.tuples(st.just(name), value) for name, value in table.items()))
    return st.lists(pairs, min_size=1, max_size=most).map(dict)


# Anything that the types allow

_BOMB = '{"a":' * 5000
_ODD = [
    *("", " ", "\n", "\x00", "a\x00b", "\u202eabc", "\ufeff", "e\u0301", "👩‍👩‍👧", "\U0010ffff"),
    *("../../etc/passwd", "%s%n{0}{x}", "<|im_end|>", "{{ 1/0 }}", "f({})", "x" * 2000, "x " * 99),
    *("data:,x", "data:image/png;base64,AAAA", "file:///etc/passwd", "http://127.0.0.1:1/x"),
    *("null", "{", "[]", '{"a": "\\ud800"}', '{"a": 1e999}', '{"a": ' + "9" * 5000 + "}", _BOMB),
]
# By number: Hypothesis writes down what it samples from.
_TEXT = st.integers(0, len(_ODD) - 1).map(lambda i: _ODD[i]) | st.text(max_size=20)
_EDGES = [0, 1, -1, 2, 100, 2**31 - 1, -(2**31)]
_NUMBERS = [0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf, 5e-324, 1e308]
_JSON: Strategy = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats() | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_ANY: Mapping[int, Strategy] = {
    FieldDescriptor.TYPE_STRING: _TEXT,
    FieldDescriptor.TYPE_BYTES: st.sampled_from([b"", b"x", b"\x89PNG\r\n\x1a\n", b"\x00" * 2000]),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: st.sampled_from(_EDGES) | st.integers(-3, 12),
    FieldDescriptor.TYPE_INT64: st.sampled_from([*_EDGES, 2**63 - 1, -(2**63)]),
    FieldDescriptor.TYPE_ENUM: st.sampled_from([-1, 99, 2**31 - 1, *range(8)]),
    FieldDescriptor.TYPE_DOUBLE: st.sampled_from(_NUMBERS) | st.floats(),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32),
}
# Fields of a newer contract, and numbers of this one in another wire type.
_UNKNOWN = [*[b""] * 40, b"\xf8\x01\x01", b"\x08\x01", b"\x0d\0\0\0\0", b"\x0b\x0c", b"\xfa\x7d\0"]


@cache
def _bad(kind: Descriptor) -> Strategy:
    """Make messages of a kind, with anything in them."""

    def made(fields: Mapping[str, Any], unknown: bytes) -> Message:
        message = make(GetMessageClass(kind), **fields)
        message.MergeFromString(unknown)
        return message

    fields = _some({field.name: _anything(field) for field in kind.fields}, 4)
    return st.builds(made, fields, st.sampled_from(_UNKNOWN))


def _anything(field: FieldDescriptor) -> Strategy:
    kind = field.message_type
    if kind is None:
        one = _ANY[field.type]
    elif kind.GetOptions().map_entry:
        key, value = kind.fields
        return st.dictionaries(_ANY[key.type], _ANY[value.type], max_size=3)
    elif kind.name == "Struct":
        one = st.dictionaries(_TEXT, _JSON, max_size=3)
    else:
        one = st.deferred(lambda: _bad(kind))
    return st.lists(one, max_size=3) if field.is_repeated else one


# What keeps the rules, one by one; together they may not

_WORDS = st.sampled_from(
    ["hi", "one two  three\n", 'f({"a": 1})', "g({})", '{"a": 1}', "[1]", "naïve ☕ 世界"]
) | st.text(min_size=1, max_size=20)
_SCHEMAS = st.sampled_from(
    [
        '{"type": "object"}',
        '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}',
        '{"type": "object", "properties": {"b": {"enum": ["x", "y"]}}}',
        "{}",
    ]
)
_SMALL, _IDS = st.integers(1, 4), st.lists(st.integers(0, 9), min_size=1, max_size=3)
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "08d763f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
_MEDIUM = st.sampled_from(
    [
        {"data": _PNG},
        {"data": _PNG, "mime_type": "image/png"},
        {"uri": "data:,x"},
        {"cache_id": "x"},
    ]
)
_PARTS = st.lists(
    st.one_of(
        st.fixed_dictionaries({"text": _WORDS}),
        *(st.fixed_dictionaries({kind: _MEDIUM}) for kind in ("image", "audio", "video")),
    ),
    min_size=1,
    max_size=3,
)
_TOOLS = [{"function": {"name": "f", "parameters": "{}"}}, {"function": {"name": "g"}}]
_CALL = {"id": "1", "name": "f", "arguments": '{"a": 1}'}
_TURN = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from([0, 1, 2, 5]), "text": _WORDS}),
    st.fixed_dictionaries({"parts": _PARTS}),
    st.fixed_dictionaries({"role": st.just(pb.ROLE_ASSISTANT), "text": _TEXT, "reasoning": _TEXT}),
    st.just({"role": pb.ROLE_ASSISTANT, "tool_calls": [_CALL]}),
    st.fixed_dictionaries(
        {"role": st.just(pb.ROLE_TOOL), "tool_call_id": st.just("1"), "text": _TEXT}
    ),
)
_SAMPLING: Mapping[str, Strategy] = {
    "temperature": st.floats(0, 2),
    "top_p": st.floats(0.01, 1),
    "top_k": st.integers(-1, 9),
    "min_p": st.floats(0, 1),
    "max_tokens": _SMALL,
    "min_tokens": st.integers(0, 1),
    "stop": st.lists(st.sampled_from(["a", "two", " "]), max_size=2),
    "stop_token_ids": _IDS,
    "include_stop": st.booleans(),
    "ignore_eos": st.booleans(),
    "seed": st.integers(0, 9),
    "presence_penalty": st.floats(-2, 2),
    "frequency_penalty": st.floats(-2, 2),
    "repetition_penalty": st.floats(0.5, 2),
    "logit_bias": st.dictionaries(st.integers(0, 9), st.floats(-100, 100, width=32), max_size=2),
    "bad_words": st.lists(st.sampled_from(["a", "two"]), max_size=2),
    "allowed_token_ids": _IDS,
    "skip_special_tokens": st.booleans(),
}
_COUNTS: Strategy = st.integers(2, 9) | st.sampled_from([*_EDGES, None, "4", 4.5, [], {}])
_REPETITION = st.fixed_dictionaries(
    {"max_pattern_size": st.just(4), "min_count": st.just(3)}
) | st.dictionaries(
    st.sampled_from(["max_pattern_size", "min_pattern_size", "min_count", "a"]), _COUNTS
)
_GOOD: Mapping[str, Strategy] = {
    "messages": st.lists(_TURN, max_size=4),
    "system": _TEXT,
    "model": st.just(""),
    "sampling": _some(_SAMPLING, 4),
    "tools": st.sampled_from([[], _TOOLS[:1], _TOOLS]),
    "tool_choice": st.sampled_from([{"mode": 1}, {"mode": 2}, {"mode": 3}, {"function": "f"}, {}]),
    "parallel_tool_calls": st.booleans(),
    "output_format": st.one_of(
        st.fixed_dictionaries({"json_schema": _SCHEMAS}),
        st.sampled_from(
            [
                {"json_object": True},
                {"regex": "[a-c]+"},
                {"choice": {"values": ["a", "b c"]}},
                {"grammar": 'root ::= "a"'},
                {"structural_tag": '{"structures": [], "triggers": []}'},
            ]
        ),
    ),
    "reasoning": _some(
        {"effort": st.integers(0, 6), "max_tokens": _SMALL, "exclude": st.booleans()}, 3
    ),
    "include": _some(
        {
            "logprobs": st.integers(0, 3),
            "prompt_logprobs": st.integers(0, 3),
            "token_ids": st.booleans(),
            "prompt_token_ids": st.booleans(),
        },
        3,
    ),
    "template": _some(
        {
            "kwargs": st.dictionaries(st.sampled_from(["enable_thinking", "a"]), _JSON, max_size=2),
            "continue_final_message": st.booleans(),
            "truncate_prompt_tokens": st.integers(1, 9),
            "documents": st.lists(st.just({"title": "a", "text": "b"}), max_size=2),
        },
        2,
    ),
    "n": _SMALL,
    "priority": st.integers(-1, 1),
    "cache_salt": _TEXT,
    "request_id": st.sampled_from(["a", "b.c:d-e_1"]),
    "time_limit": st.sampled_from([{"nanos": 1}, {"nanos": 10**6}, {"seconds": 60}]),
    "continuation": st.one_of(
        st.fixed_dictionaries({"token_ids": _IDS}), st.fixed_dictionaries({"text": _WORDS})
    ),
    "chunking": st.sampled_from([{"min_chars": 5}, {"max_delay": {"nanos": 10**6}}]),
    "engine_options": st.one_of(
        st.dictionaries(st.sampled_from(["a", "seed"]), _JSON, max_size=1),
        # What vLLM has, and the servers of the tests allow.
        st.fixed_dictionaries({"repetition_detection": _REPETITION}),
        st.fixed_dictionaries({"repetition_detection": _JSON}),
    ),
}


def _good() -> st.SearchStrategy[pb.ChatRequest]:
    """Make a request whose fields are each as they should be."""
    few = _some(_GOOD, 5)
    return st.builds(lambda query, fields: make(pb.ChatRequest, query=query, **fields), _WORDS, few)
