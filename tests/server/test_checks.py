"""What a request may say: every rule, and every fault at once."""

import math
from typing import Any

import pytest

from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import violations

USER, ASSISTANT, TOOL = pb.ROLE_USER, pb.ROLE_ASSISTANT, pb.ROLE_TOOL
REQUIRED, UNKNOWN = pb.ToolChoice.MODE_REQUIRED, 99


def faults(**fields: Any) -> dict[str, str]:
    request = make(pb.ChatRequest, **{"query": "x", **fields})
    found = violations(request)
    named = {v.field: v.description for v in found}
    assert len(named) == len(found), found
    assert all(len(text) <= 96 for text in named.values()), "a status would cut it"
    return named


def said(*messages: dict[str, Any]) -> dict[str, str]:
    return faults(messages=messages)


def tools(*functions: dict[str, Any], **fields: Any) -> dict[str, str]:
    return faults(tools=[{"function": function} for function in functions], **fields)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("temperature", [0, 2], [-0.1, 2.1, math.nan, math.inf]),
        ("top_p", [0.1, 1], [0, 1.01, math.nan]),
        ("top_k", [-1, 0, 5], [-2]),
        ("min_p", [0, 1], [-0.1, 1.1]),
        ("max_tokens", [1], [0, -5]),
        ("min_tokens", [0, 3], [-1]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("repetition_penalty", [1e-30, 0.1, 2, 1e30], [0, -1, 5e-324, 1e300, math.inf]),
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
        messages=[{"role": 77, "text": "a"}, {"role": USER}],
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
    """Neither query nor messages is a fault; of empty messages, only those of who may be silent."""
    assert faults(query="") == {"query": "required unless messages are given"}
    assert faults(query="", template={"continue_final_message": True}) == {
        "query": "required unless messages are given",
        "template.continue_final_message": "the last message must be the assistant's",
    }
    assert said({"role": ASSISTANT}) == {}
    assert said({}, {"role": pb.ROLE_SYSTEM}) == {
        "messages[0].text": "required",
        "messages[1].text": "required",
    }


def test_parts_of_a_message() -> None:
    """Text or parts, not both; each part is something, and each medium has a good source."""
    png = {"image": {"data": b"x", "mime_type": "image/png", "cache_key": "a.b:c-1"}}
    assert said({"parts": [{"text": "a"}, png, {"audio": {"uri": "data:,x"}}]}) == {}
    assert said({"parts": [{"video": {"cache_id": "v1"}}]}) == {}
    assert said({"text": "a", "parts": [{"text": "b"}]}) == {
        "messages[0].parts": "must not be set beside text"
    }
    bad: list[dict[str, Any]] = [
        {},
        {"text": ""},
        {"image": {}},
        {"image": {"data": b""}},
        {"audio": {"uri": ""}},
        {"video": {"cache_id": ""}},
        {"image": {"cache_id": "no spaces", "cache_key": "k"}},
        {"image": {"data": b"x", "cache_key": "k" * 129}},
        {"image": {"data": b"x", "mime_type": "image/png;base64,AAAA"}},
    ]
    must_match = "must match [A-Za-z0-9._:-]{1,128}"
    assert said({"parts": bad}) == {
        "messages[0].parts[0]": "must be a text, an image, a sound or a film",
        "messages[0].parts[1].text": "must not be empty",
        "messages[0].parts[2].image": "must have data, a uri or a cache_id",
        "messages[0].parts[3].image.data": "must not be empty",
        "messages[0].parts[4].audio.uri": "must not be empty",
        "messages[0].parts[5].video.cache_id": "must not be empty",
        "messages[0].parts[6].image.cache_id": must_match,
        "messages[0].parts[6].image.cache_key": "must not be set beside cache_id",
        "messages[0].parts[7].image.cache_key": must_match,
        "messages[0].parts[8].image.mime_type": "must be a type/subtype alone",
    }


def test_who_may_show_something() -> None:
    """Images may come from anybody but the assistant: templates have no place for such there."""
    call = {"role": ASSISTANT, "tool_calls": [{"id": "1", "name": "f"}]}
    shown: dict[str, Any] = {"parts": [{"image": {"data": b"x"}}]}
    roles = (USER, pb.ROLE_SYSTEM, pb.ROLE_DEVELOPER)
    assert said(*({"role": role, **shown} for role in roles)) == {}
    assert said(call, {"role": TOOL, "tool_call_id": "1", **shown}) == {}
    assert said({"role": ASSISTANT, **shown}) == {
        "messages[0].parts[0].image": "an assistant says text only"
    }


def test_tool_calls_and_their_results() -> None:
    """Calls are the assistant's and complete; a result answers one of them, and may be empty."""
    call = {"id": "1", "name": "f", "arguments": '{"a": 1}'}
    turn = {"role": ASSISTANT, "reasoning": "hm", "tool_calls": [call, {"id": "2", "name": "g"}]}
    result = {"role": TOOL, "tool_call_id": "2"}
    assert said(turn, {"role": TOOL, "text": "r", "tool_call_id": "1"}, result) == {}
    assert said(result, turn, {"role": TOOL, "text": "r"}) == {
        "messages[0].tool_call_id": "answers no call of a message before it",
        "messages[2].tool_call_id": "required",
    }
    assert said({**turn, "role": USER, "text": "a", "tool_call_id": "1"}) == {
        "messages[0].reasoning": "is the assistant's alone",
        "messages[0].tool_calls": "is the assistant's alone",
        "messages[0].tool_call_id": "is a tool's alone",
    }
    assert said({"role": ASSISTANT, "tool_calls": [{"arguments": "[1]"}, call]}) == {
        "messages[0].tool_calls[0].id": "required",
        "messages[0].tool_calls[0].name": "required",
    }


def test_tools_have_names_and_schemas() -> None:
    """Names are there, well-formed and unique; parameters are JSON of an object, or none."""
    assert tools({"name": "a.B_c-1", "parameters": '{"type": "object"}'}, {"name": "b"}) == {}
    assert faults(tools=[{}]) == {"tools[0]": "must be a function"}
    assert tools({}, {"name": "a b"}, {"name": "f"}, {"name": "f", "parameters": "true"}) == {
        "tools[0].function.name": "required",
        "tools[1].function.name": "must match [A-Za-z0-9_.-]{1,64}",
        "tools[3].function.name": "is another tool's already",
        "tools[3].function.parameters": "must be JSON of an object",
    }


def test_the_choice_of_a_tool() -> None:
    """What is chosen is there."""
    f = {"name": "f"}
    for choice in ({"mode": REQUIRED}, {"function": "f"}, {"mode": pb.ToolChoice.MODE_NONE}, {}):
        assert tools(f, tool_choice=choice) == {}
    no_tools = {"tool_choice.mode": "requires a call, but there are no tools"}
    assert faults(tool_choice={"mode": REQUIRED}) == no_tools
    assert faults(tool_choice={"mode": pb.ToolChoice.MODE_AUTO}) == {}
    assert tools(f, tool_choice={"mode": UNKNOWN}) == {"tool_choice.mode": "unknown mode 99"}
    for name in ("g", ""):
        assert tools(f, tool_choice={"function": name}) == {
            "tool_choice.function": "is the name of no tool"
        }


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("json_schema", ["{}", "true", '{"type": "object"}'], ["", "[]", "1", "{"]),
        ("json_object", [True], [False]),
        ("regex", ["a+"], [""]),
        ("grammar", ["root ::= 'a'"], [""]),
        ("structural_tag", ['{"structures": []}'], ["", "true", "[]"]),
    ],
)
def test_output_formats(field: str, good: list[Any], bad: list[Any]) -> None:
    """Each format has its content, in the form that chat.proto names."""
    for value in good:
        assert faults(output_format={field: value}) == {}
    for value in bad:
        (found,) = faults(output_format={field: value})

        assert found == f"output_format.{field}"


def test_one_format_and_no_forced_call() -> None:
    """A format is named; a forced tool call is another constraint on the same answer."""
    assert faults(output_format={}) == {"output_format": "must have a format"}
    assert faults(output_format={"choice": {"values": ["a", "b"]}}) == {}
    assert faults(output_format={"choice": {}}) == {"output_format.choice.values": "required"}
    assert faults(output_format={"choice": {"values": ["a", ""]}}) == {
        "output_format.choice.values[1]": "must not be empty"
    }
    for choice in ({"mode": REQUIRED}, {"function": "f"}):
        assert tools({"name": "f"}, tool_choice=choice, output_format={"regex": "a"}) == {
            "output_format": "must not be set beside a forced tool call"
        }
    assert tools({"name": "f"}, output_format={"regex": "a"}) == {}


def test_json_texts_of_all_sorts() -> None:
    """Whatever is wrong with a JSON text, it is one fault with a plain reason."""
    cases = {
        "{": "is not JSON at character 1",
        '{"a": nan}': "is not JSON at character 6",
        '{"a": NaN}': "holds a number that cannot be read",
        '{"a": 1e999}': "holds a number that cannot be read",
        '{"a": ' + "9" * 5000 + "}": "holds a number that cannot be read",
        '{"a": "\\ud800"}': "holds half of a surrogate pair",
        '{"\\udc00": 1}': "holds half of a surrogate pair",
        '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}": "is nested deeper than 100 levels",
        '{"a": ' + "[" * 101 + "]" * 101 + "}": "is nested deeper than 100 levels",
    }
    for text, reason in cases.items():
        assert tools({"name": "f", "parameters": text}) == {"tools[0].function.parameters": reason}
    good = '{"a": ' + "[" * 99 + '1.5, "\\ud83d\\ude00"' + "]" * 99 + "}"
    assert tools({"name": "f", "parameters": good}) == {}


def test_reasoning_and_what_is_included() -> None:
    """Numbers are in range; what would show excluded thoughts is refused."""
    assert faults(reasoning={"effort": 6, "max_tokens": 1}) == {}
    assert faults(reasoning={"effort": UNKNOWN, "max_tokens": 0}) == {
        "reasoning.effort": "unknown effort 99",
        "reasoning.max_tokens": "must be >= 1, got 0",
    }
    assert faults(include={"logprobs": 0, "prompt_logprobs": 0, "token_ids": True}) == {}
    assert faults(include={"logprobs": -1, "prompt_logprobs": -2}) == {
        "include.logprobs": "must be >= 0, got -1",
        "include.prompt_logprobs": "must be >= 0, got -2",
    }
    shown = {"logprobs": 0, "token_ids": True, "prompt_token_ids": True, "prompt_logprobs": 1}
    assert faults(reasoning={"exclude": True}, include=shown) == {
        "include.logprobs": "would show the thoughts that are excluded",
        "include.token_ids": "would show the thoughts that are excluded",
    }


def test_what_a_template_is_given() -> None:
    """Documents are strings, numbers are JSON's, and a picture is not cut in two."""
    good = {"title": "a", "text": "b"}
    assert faults(template={"documents": [good], "truncate_prompt_tokens": -1}) == {}
    assert faults(template={"kwargs": {"a": [1, {"b": None}]}}) == {}
    nested = {"a": [1, {"b": math.nan}], "c": -math.inf}
    assert faults(template={"kwargs": nested}, engine_options=nested) == {
        "template.kwargs.a[1].b": "must be finite, got nan",
        "template.kwargs.c": "must be finite, got -inf",
        "engine_options.a[1].b": "must be finite, got nan",
        "engine_options.c": "must be finite, got -inf",
    }
    assert faults(template={"documents": [good, {"title": 1, "text": None}]}) == {
        "template.documents[1].text": "must be a string",
        "template.documents[1].title": "must be a string",
    }
    path = "template.truncate_prompt_tokens"
    for most in (0, -2):
        assert faults(template={"truncate_prompt_tokens": most}) == {
            path: f"must be >= 1, or -1, got {most}"
        }
    shown = {"parts": [{"text": "a"}, {"image": {"data": b"x"}}]}
    assert faults(messages=[shown], template={"truncate_prompt_tokens": 5}) == {
        path: "would cut through images, sound or film"
    }


@pytest.mark.parametrize(
    ("duration", "good"),
    [
        ({"nanos": 1}, True),
        ({"seconds": 315_576_000_000, "nanos": 999_999_999}, True),
        ({}, False),
        ({"seconds": -1}, False),
        ({"seconds": 1, "nanos": -1}, False),
        ({"nanos": 1_000_000_000}, False),
        ({"seconds": 315_576_000_001}, False),
        ({"seconds": -(2**63)}, False),
    ],
)
def test_time_limits(duration: dict[str, int], good: bool) -> None:
    """A time limit is a Duration by protobuf's own bounds, and longer than nothing."""
    fault = {"time_limit": "must be a Duration > 0"}

    assert faults(time_limit=duration) == ({} if good else fault)


def test_the_rest_of_a_request() -> None:
    """How many answers, whose cache, and how a stream is cut."""
    assert faults(n=1, priority=-5, cache_salt="s" * 1024, chunking={"max_delay": {}}) == {}
    assert faults(n=0, cache_salt="s" * 1025) == {
        "n": "must be >= 1, got 0",
        "cache_salt": "must have at most 1024 characters, got 1025",
    }
    assert faults(chunking={"max_delay": {"nanos": -1}, "min_chars": -1}) == {
        "chunking.max_delay": "must be a Duration >= 0",
        "chunking.min_chars": "must be >= 0, got -1",
    }


def test_continuations() -> None:
    """By tokens or by text, of one free answer; after a prefill, too: the prompt is then longer."""
    assert faults(continuation={"token_ids": [0, 5]}, n=1) == {}
    assert faults(continuation={"text": "a"}, reasoning={"exclude": True}) == {}
    turn = {"role": ASSISTANT, "text": "a"}
    prefill = {"continue_final_message": True}
    assert (
        faults(query="", messages=[turn], template=prefill, continuation={"token_ids": [1]}) == {}
    )
    assert faults(continuation={}) == {"continuation": "must have token_ids or text"}
    assert faults(continuation={"text": "a", "token_ids": [1, -1]}) == {
        "continuation.text": "must not be set beside token_ids",
        "continuation.token_ids[1]": "must be >= 0, got -1",
    }
    more: dict[str, Any] = {"n": 2, "include": {"prompt_logprobs": 0, "prompt_token_ids": True}}
    assert faults(continuation={"text": "a"}, output_format={"regex": "a"}, **more) == {
        "n": "does not go with a continuation",
        "output_format": "does not go with a continuation",
        "include.prompt_logprobs": "does not go with a continuation",
    }
    assert tools({"name": "f"}, continuation={"text": "a"}, tool_choice={"function": "f"}) == {
        "tool_choice": "does not go with a continuation"
    }
