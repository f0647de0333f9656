"""From options to a ChatRequest, everything that it carries: pure, no server."""

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from talkwire import (
    Answer,
    Audio,
    Choice,
    Client,
    Grammar,
    Image,
    PartLike,
    Regex,
    StructuralTag,
    Video,
)
from talkwire._build import build, split
from talkwire_proto.v1 import chat_pb2 as pb

SCHEMA = {"type": "object", "properties": {"z": {"type": "string"}, "a": {"type": "number"}}}

EVERYTHING: dict[str, Any] = {
    "chunking": {"max_delay": 0.25, "min_chars": 20},
    "messages": [
        {"role": "user", "parts": ["t", Image(b"i", mime_type="image/png", cache_key="k")]},
        {"role": "user", "parts": [Audio.from_uri("data:,a"), Video.cached("k")]},
        {
            "role": "assistant",
            "text": "t",
            "reasoning": "r",
            "tool_calls": [{"id": "c", "name": "f", "arguments": {"a": 1}}],
        },
        {"role": "tool", "content": "t", "tool_call_id": "c", "name": "f"},
    ],
    "system": "s",
    "model": "m",
    "tools": [{"name": "f", "description": "d", "parameters": SCHEMA, "strict": True}],
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "output": SCHEMA,
    "reasoning": {"effort": "high", "max_tokens": 5, "exclude": True},
    "include": {"logprobs": 0, "prompt_logprobs": 2, "token_ids": True, "prompt_token_ids": True},
    "template": {"enable_thinking": False},
    "continue_final_message": True,
    "documents": [{"title": "d"}],
    "truncate_prompt_tokens": -1,
    "n": 2,
    "priority": -1,
    "cache_salt": "salt",
    "request_id": "id",
    "time_limit": 1.5,
    "continuation": [1, 2],
    "engine_options": {"spec": {"deep": [1]}},
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0.5,
    "max_tokens": 5,
    "min_tokens": 0,
    "stop": ["s"],
    "stop_token_ids": [5],
    "include_stop": False,
    "ignore_eos": False,
    "seed": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {5: -1.5},
    "bad_words": ["b"],
    "allowed_token_ids": [7],
    "skip_special_tokens": False,
}
"""A value of every option, such that it shows."""

OTHER_FORMS: list[dict[str, Any]] = [
    {"tool_choice": "f"},
    {"continuation": pb.Continuation(text="t")},
    {"output": dict},
    {"output": Regex("a+")},
    {"output": Choice("a", "b")},
    {"output": Grammar("root ::= 'a'")},
    {"output": StructuralTag({"structures": []})},
]


def fields(message: Message) -> Iterator[str]:
    """Name the fields that are set, here and below, each with its message."""
    for field, value in message.ListFields():
        yield field.full_name
        below = [value] if isinstance(value, Message) else value
        if field.message_type and not field.message_type.GetOptions().map_entry:
            for item in below:
                yield from fields(item) if not isinstance(item, Struct) else ()


def declared(descriptor: Any, seen: set[str]) -> Iterator[str]:
    """Name the fields that there are, here and below."""
    seen.add(descriptor.full_name)
    for field in descriptor.fields:
        yield field.full_name
        below = field.message_type
        own = below and below.full_name.startswith("talkwire.")
        if own and not below.GetOptions().map_entry and below.full_name not in seen:
            yield from declared(below, seen)


def test_every_field_of_a_request_is_reached_by_an_option() -> None:
    """All of ChatRequest and of what it holds."""
    set_by_options = {
        name for options in [EVERYTHING, *OTHER_FORMS] for name in fields(build("q", options))
    }
    wellknown = {name for name in set_by_options if name.startswith("google.")}

    assert set_by_options - wellknown == {*declared(pb.ChatRequest.DESCRIPTOR, set())}


def test_each_option_has_its_place() -> None:
    """What the options say is what the request says."""
    request = build("q", EVERYTHING)
    image, call = request.messages[0].parts[1].image, request.messages[2].tool_calls[0]

    assert (image.data, image.mime_type, image.cache_key) == (b"i", "image/png", "k")
    assert request.messages[1].parts[1].video.cache_id == "k"
    assert (call.id, call.name, call.arguments) == ("c", "f", '{"a": 1}')
    assert (request.messages[3].role, request.messages[3].tool_call_id) == (pb.ROLE_TOOL, "c")
    assert request.tools[0].function.parameters == json.dumps(SCHEMA)
    assert request.output_format.json_schema == json.dumps(SCHEMA)
    assert request.tool_choice.mode == pb.ToolChoice.MODE_REQUIRED
    assert request.reasoning == pb.Reasoning(
        effort=pb.Reasoning.EFFORT_HIGH, max_tokens=5, exclude=True
    )
    assert request.include.HasField("logprobs")
    assert request.time_limit.ToMilliseconds() == 1500
    assert json_format.MessageToDict(request.engine_options) == {"spec": {"deep": [1]}}
    assert (request.n, request.priority, request.template.truncate_prompt_tokens) == (2, -1, -1)


def test_short_forms() -> None:
    """One word for reasoning, a timedelta for seconds, one stop word, a function's name."""
    request = build(
        "",
        {"reasoning": "none", "time_limit": timedelta(minutes=1), "stop": "x", "tool_choice": "f"},
    )

    assert request.reasoning == pb.Reasoning(effort=pb.Reasoning.EFFORT_NONE)
    assert request.time_limit.seconds == 60
    assert list(request.sampling.stop) == ["x"]
    assert request.tool_choice.function == "f"


def test_none_leaves_an_option_out() -> None:
    """So that a call can do without a default of its client's."""
    assert build("", dict.fromkeys(EVERYTHING)) == pb.ChatRequest()
    assert Client(output=dict).request("q", output=None) == pb.ChatRequest(query="q")


@pytest.mark.parametrize(
    ("output", "field", "value"),
    [
        (dict, "json_object", True),
        (Regex("a+"), "regex", "a+"),
        (Choice("a", "b"), "choice", pb.OutputFormat.Choices(values=["a", "b"])),
        (Grammar("g"), "grammar", "g"),
        (StructuralTag('{"a": 1}'), "structural_tag", '{"a": 1}'),
        (StructuralTag({"b": 1, "a": 2}), "structural_tag", '{"b": 1, "a": 2}'),
        ('{"type": "null"}', "json_schema", '{"type": "null"}'),
        ({"z": 1, "a": "é"}, "json_schema", '{"z": 1, "a": "é"}'),
    ],
)
def test_forms_of_output(output: Any, field: str, value: Any) -> None:
    """Each form of `output` is one of OutputFormat's; schemas keep their order of keys."""
    made = build("", {"output": output}).output_format

    assert made.WhichOneof("format") == field
    assert getattr(made, field) == value


def test_a_query_of_parts_is_the_last_message() -> None:
    """Texts and media in order, after the messages that there are."""
    parts: list[PartLike] = ["a", Image(b"x"), pb.Part(text="b")]
    request = build(parts, {"messages": [{"text": "before"}]})

    assert request.query == ""
    assert [part.WhichOneof("part") for part in request.messages[1].parts] == [
        *("text", "image", "text")
    ]
    assert request.messages[1].role == pb.ROLE_USER


def test_what_an_answer_goes_on_with() -> None:
    """Its token ids, else its text; nothing, when nothing came; thoughts only by token ids."""
    ids = Answer(pb.ChatResponse(token_ids=[1, 2], message=pb.Message(text="t")))
    text = Answer(pb.ChatResponse(message=pb.Message(text="t")))
    thought = Answer(pb.ChatResponse(message=pb.Message(reasoning="hm", text="t")))

    assert build("", {"continuation": ids}).continuation == pb.Continuation(token_ids=[1, 2])
    assert build("", {"continuation": text}).continuation == pb.Continuation(text="t")
    assert not build("", {"continuation": Answer(pb.ChatResponse())}).HasField("continuation")
    assert build("", {"continuation": []}) == build("", {"continuation": None}) == build("", {})
    with pytest.raises(ValueError, match="continuation: thoughts and calls go on by token ids"):
        build("", {"continuation": thought})


def test_the_whole_of_a_continued_answer_can_go_on_again() -> None:
    """It has all of its token ids, if its first part has them; else none can be asked for."""
    ids = Answer(pb.ChatResponse(token_ids=[1], message=pb.Message(text="t")))
    text = Answer(pb.ChatResponse(message=pb.Message(text="t")))
    nothing = Answer(pb.ChatResponse(prompt_token_ids=[1]))
    asked = {"include": {"token_ids": True}}

    request, call = split("", {"continuation": ids})
    assert request.include.token_ids
    assert call["begun"] is ids
    assert split("", {"continuation": text})[1]["begun"] is text
    for other in (nothing, [1], pb.Continuation(text="t"), None):
        assert split("", {"continuation": other, **asked})[1]["begun"] is None
    with pytest.raises(ValueError, match="continuation: has no token ids"):
        split("", {"continuation": text, **asked})


def test_every_fault_is_named_at_once() -> None:
    """Whatever does not fit, with the path of its field, in Python's words."""
    bad: dict[str, Any] = {
        "model": 5,
        "temperature": "hot",
        "n": 2.5,
        "seed": 1 << 70,
        "bad_words": "no",
        "stop_token_ids": ["a", 5],
        "logit_bias": [1],
        "reasoning": {"effort": "huge"},
        "include": {"logprobs": "all", "tokens": True},
        "template": [1],
        "engine_options": {"a": object()},
        "documents": [{}, "d"],
        "time_limit": float("inf"),
        "tool_choice": 5,
        "tools": [{"name": "f", "schema": {}}, 5],
        "output": Regex(5),  # type: ignore[arg-type]
        "messages": [
            "hi",
            {"parts": "hi"},
            {"parts": ["hi", 5]},
            {"tool_calls": [{"id": 5}]},
            {"text": "a", "content": "b"},
        ],
    }
    with pytest.raises(ValueError, match="model") as caught:
        build(5, bad)  # type: ignore[arg-type]

    assert str(caught.value).split("; ") == [
        "model: must be a string, not int",
        "temperature: must be a number, not str",
        "n: must be a whole number, not float",
        f"seed: Value out of range: {1 << 70}",
        "bad_words: must be a list of strings, not str",
        "stop_token_ids: must be a list of whole numbers, not list of int, str",
        "logit_bias: must be a mapping, not list of int",
        "reasoning: unknown effort 'huge', must be one of none, minimal, low, medium, high, max",
        "include.logprobs: must be a whole number, not str",
        "include.tokens: unknown",
        "template: must be a mapping, not list of int",
        "engine_options: must hold JSON values only",
        "documents[1]: must be a mapping, not str",
        "time_limit: cannot convert float infinity to integer",
        "tool_choice: must be a string, not int",
        "tools[0].schema: unknown",
        "tools[1]: must be a mapping, not int",
        "output: must be a string, not int",
        "messages[0]: must be a mapping, not str",
        "messages[1].parts: must be a list of parts, not str",
        "messages[2].parts[1]: must be a string, an Image, Audio or Video, not int",
        "messages[3].tool_calls[0].id: must be a string, not int",
        "messages[4].content: is the same as text: give one of them",
        "query: must be a list of parts, not int",
    ]
