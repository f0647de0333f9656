"""What holds the real engine's answers in form: schemas, patterns, choices, forced tool calls."""

import asyncio
import json
import re
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from support import make
from talkwire import AsyncClient, InvalidRequest, Unsupported
from talkwire_proto.v1 import chat_pb2 as pb

pytestmark = pytest.mark.timeout(300)

WORD = {"type": "string", "maxLength": 8}
DIGIT = {"type": "integer", "minimum": 0, "maximum": 9}


def an_object(**properties: Any) -> dict[str, Any]:
    """Make the schema of an object that has just these properties, in this order."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


SCHEMAS: list[dict[str, Any]] = [
    an_object(name=WORD),
    an_object(z=DIGIT, a=DIGIT, m=DIGIT),
    an_object(inner=an_object(deep=an_object(er=DIGIT))),
    an_object(yes={"type": "boolean"}, nothing={"type": "null"}),
    an_object(kind={"enum": ["cat", "dog"]}),
    an_object(fixed={"const": 42}),
    an_object(items={"type": "array", "items": DIGIT, "minItems": 2, "maxItems": 3}),
    an_object(pairs={"type": "array", "items": an_object(k=WORD), "minItems": 1, "maxItems": 2}),
    an_object(either={"anyOf": [DIGIT, {"type": "boolean"}]}),
    an_object(date={"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"}),
    an_object(price={"type": "number", "minimum": 0, "maximum": 9}),
    {"type": "array", "items": WORD, "minItems": 1, "maxItems": 2},
    {"type": "array", "prefixItems": [DIGIT, WORD], "minItems": 2, "maxItems": 2, "items": False},
    DIGIT,
    {"type": "boolean"},
    {"enum": ["red", "green", 3, None]},
    {"$ref": "#/$defs/node", "$defs": {"node": an_object(value=DIGIT)}},
    an_object(**{"key with spaces": DIGIT, 'quote"d': DIGIT}),
    an_object(ключ={"enum": ["да", "нет"]}, 鍵=DIGIT),
    {
        "type": "object",
        "properties": {"a": DIGIT},
        "required": ["a"],
        "additionalProperties": False,
    },
]


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: json.dumps(schema)[:40])
async def test_a_schema_is_met(llm: AsyncClient, schema: dict[str, Any]) -> None:
    """The text parses, meets the schema, and its keys come in the schema's order."""
    form = pb.OutputFormat(json_schema=json.dumps(schema))
    request = make(pb.ChatRequest, query="Answer in JSON.", output_format=form)
    request.sampling.max_tokens, request.sampling.temperature = 96, 0
    answer = await llm.stub.Chat(request)
    value = json.loads(answer.message.text)

    assert answer.finish_reason == pb.FINISH_REASON_STOP
    Draft202012Validator(schema).validate(value)
    if "properties" in schema:
        assert list(value) == list(schema["properties"])


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": r"[A-Z]{2}-[0-9]{3}"}, r"[A-Z]{2}-[0-9]{3}"),
        ({"choice": {"values": ["red", "green", "dark blue"]}}, "red|green|dark blue"),
    ],
    ids=["regex", "choice"],
)
async def test_a_pattern_holds_for_50_seeds(
    llm: AsyncClient, form: dict[str, Any], pattern: str
) -> None:
    """However the tokens are drawn."""

    async def drawn(seed: int) -> str:
        sampling = {"seed": seed, "temperature": 1.5, "top_p": 1, "max_tokens": 16}
        request = make(pb.ChatRequest, query="Say it.", output_format=form, sampling=sampling)
        text: str = (await llm.stub.Chat(request)).message.text
        return text

    texts = await asyncio.gather(*map(drawn, range(50)))

    assert all(re.fullmatch(pattern, text) for text in texts)
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"grammar": 'root ::= "a" b\nb ::= "b" | "c"'}, "a[bc]"),
        (
            {
                "structural_tag": json.dumps(
                    {"type": "structural_tag", "format": {"type": "const_string", "value": "hey"}}
                )
            },
            "hey",
        ),
        ({"json_object": True}, r"\{.*"),
    ],
    ids=["grammar", "structural_tag", "json_object"],
)
async def test_the_other_forms(llm: AsyncClient, form: dict[str, Any], text: str) -> None:
    """Grammars, structural tags, any JSON object."""
    sampling = {"temperature": 0, "max_tokens": 16}
    request = make(pb.ChatRequest, query="Go on.", output_format=form, sampling=sampling)
    answer = await llm.stub.Chat(request)

    assert re.fullmatch(text, answer.message.text, re.DOTALL)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        ({"json_schema": '{"type": "foo"}'}, 'Unsupported type "foo"'),
        ({"json_schema": '{"$ref": "#/nowhere"}'}, "Cannot find field nowhere in #/nowhere"),
        ({"regex": "["}, "Regex parsing error"),
        ({"grammar": "root ::= ("}, "EBNF parser error at line 1, column 11"),
        ({"structural_tag": '{"a": 1}'}, "Structural tag must have a format field"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_the_backend_cannot_compile(
    llm: AsyncClient, form: dict[str, Any], reason: str
) -> None:
    """INVALID_ARGUMENT with the backend's reason, and the engine lives on."""
    request = make(pb.ChatRequest, query="x", output_format=form)
    with pytest.raises(InvalidRequest) as caught:
        await llm.send(request)

    (violation,) = caught.value.violations
    assert violation.field == f"output_format.{next(iter(form))}"
    assert reason in violation.description
    assert (await llm.chat("Hi", max_tokens=1)).complete


def tool(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"function": {"name": name, "parameters": json.dumps(schema)}}


TOOLS = [
    tool("weather", an_object(city=WORD, days=DIGIT)),
    tool("paint", an_object(color={"enum": ["red", "blue"]})),
    {"function": {"name": "now"}},
]


@pytest.mark.parametrize("choice", [{"mode": "MODE_REQUIRED"}, {"function": "paint"}])
@pytest.mark.parametrize("rpc", ["Chat", "ChatStream"])
async def test_a_forced_call_has_valid_arguments(
    llm: AsyncClient, choice: dict[str, Any], rpc: str
) -> None:
    """Required or named, in one message or streamed: an object that meets the tool's schema."""
    sampling = {"temperature": 0, "max_tokens": 96}
    request = make(
        pb.ChatRequest,
        query="What is the weather in Paris for 3 days?",
        tools=TOOLS,
        tool_choice=choice,
        parallel_tool_calls=False,
        sampling=sampling,
    )
    if rpc == "Chat":
        answer = await llm.send(request)
    else:
        async with llm.send_stream(request) as stream:
            answer = await stream.wait()
    (call,) = answer.proto.message.tool_calls
    schemas = {t["function"]["name"]: t["function"].get("parameters") for t in TOOLS}

    assert answer.finish_reason == "tool_calls"
    assert answer.text == ""
    assert call.id
    assert call.name == choice.get("function", call.name)
    arguments = json.loads(call.arguments)
    Draft202012Validator(json.loads(schemas[call.name] or "{}")).validate(arguments)


async def test_sampling_that_leaves_no_token_of_the_form(llm: AsyncClient) -> None:
    """What stands against the form is named: no fault of the server."""
    with pytest.raises(InvalidRequest) as caught:
        await llm.chat("Hi", output=an_object(a=DIGIT), allowed_token_ids=[7], logit_bias={0: 71})

    assert [(v.field, v.description) for v in caught.value.violations] == [
        (f"sampling.{name}", "leaves no token that output_format.json_schema allows")
        for name in ("logit_bias", "allowed_token_ids")
    ]


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("choice", {"values": ["\U000b6068", "\U000b6068!"]}),
        ("regex", "\U000b6068[ab]"),
        ("json_schema", json.dumps({"enum": ["\U000b6068"]})),
    ],
)
async def test_characters_that_no_tokens_say(llm: AsyncClient, kind: str, form: Any) -> None:
    """The form is at fault: this model's vocabulary has not all bytes."""
    with pytest.raises(InvalidRequest) as caught:
        await llm.send(make(pb.ChatRequest, query="Hi", output_format={kind: form}))

    assert [(v.field, v.description) for v in caught.value.violations] == [
        (f"output_format.{kind}", r"no tokens of this model say '\U000b6068'")
    ]


async def test_the_model_may_call_of_its_own_accord(llm: AsyncClient) -> None:
    """A call in the model's own format (here it is made to write one) becomes a ToolCall."""
    call = r'<tool_call>\n\{"name": "paint", "arguments": \{"color": "(red|blue)"\}\}\n</tool_call>'
    request = make(pb.ChatRequest, query="Paint!", tools=TOOLS, output_format={"regex": call})
    request.sampling.max_tokens = 64
    answer = await llm.send(request)
    async with llm.send_stream(request) as stream:
        streamed = await stream.wait()

    for made in (answer, streamed):
        (found,) = made.proto.message.tool_calls
        assert (found.name, made.finish_reason, made.text) == ("paint", "tool_calls", "")
        assert json.loads(found.arguments)["color"] in ("red", "blue")


async def test_a_tool_whose_schema_cannot_be_compiled_is_named(llm: AsyncClient) -> None:
    """With the backend's reason, and none of its code's places and names."""
    tools = [TOOLS[0], {"function": {"name": "w", "parameters": '{"type": "foo"}'}}]
    request = make(pb.ChatRequest, query="x", tools=tools, tool_choice={"function": "w"})
    with pytest.raises(InvalidRequest) as caught:
        await llm.send(request)

    (violation,) = caught.value.violations
    assert violation.field == "tools[1].function.parameters"
    assert violation.description.endswith('Unsupported type "foo"')
    assert "/" not in violation.description


async def test_tools_that_must_not_be_called(llm: AsyncClient) -> None:
    """With MODE_NONE what looks like a call stays text."""
    form = {"regex": r'<tool_call>\{"name": "paint", "arguments": \{\}\}</tool_call>'}
    choice = {"mode": "MODE_NONE"}
    request = make(
        pb.ChatRequest, query="Paint!", tools=TOOLS, tool_choice=choice, output_format=form
    )
    answer = await llm.send(request)

    assert not answer.proto.message.tool_calls
    assert "paint" in answer.text
    assert answer.finish_reason == "stop"


async def test_thinking_needs_a_parser(llm: AsyncClient) -> None:
    """Without --reasoning-parser `reasoning` is refused by name."""
    request = make(pb.ChatRequest, query="x", reasoning={"effort": "EFFORT_LOW"})
    with pytest.raises(Unsupported, match=r"reasoning .*--reasoning-parser"):
        await llm.send(request)
