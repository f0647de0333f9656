"""What hostile regexes, grammars and schemas cost the others: nothing that lasts."""

import asyncio
import json
from typing import Any

import pytest

from support import make
from talkwire import AsyncClient, InvalidRequest
from talkwire_proto.v1 import chat_pb2 as pb

pytestmark = pytest.mark.timeout(300)

LONG = "takes more than"
SLOW = "takes too long to find the next token"


def lengths(count: int) -> str:
    """Make a schema of so many strings, each with a bound of its own."""
    properties = {f"p{i}": {"type": "string", "maxLength": 250 + i} for i in range(count)}
    return json.dumps({"type": "object", "properties": properties})


TREE = [f"a{i} ::= a{i + 1} a{i + 1} | a{i + 1}" for i in range(40)]
STAR: dict[str, Any] = {"type": "regex", "pattern": "((.?)*)+"}
TAGS = [{"type": "tag", "begin": f"<t{i}>", "content": STAR, "end": f"</t{i}>"} for i in range(60)]
MANY = {"type": "triggered_tags", "triggers": [f"<t{i}>" for i in range(60)], "tags": TAGS}
ENDLESS = {
    "a star of stars": ({"regex": "((.?)*)+"}, SLOW),
    "a long one": ({"regex": "(((.?)*(.?)*)+((.?)*)*)+" * 40}, SLOW),
    "a grammar": ({"grammar": "\n".join(["root ::= a0", *TREE, "a40 ::= [a-z]*"])}, SLOW),
    "lengths": ({"json_schema": lengths(200)}, LONG),
    "a tag": (
        {"structural_tag": json.dumps({"type": "structural_tag", "format": STAR})},
        SLOW,
    ),
}


BOUNDED: dict[str, dict[str, Any]] = {
    "counts": {"regex": "(a{1,100}){1,100}"},
    "counts of counts": {"regex": "(((a{1,100}){1,100}){1,100}){1,100}"},
    "dots": {"regex": "(.{0,100}a){100}"},
    "triggers": {"structural_tag": json.dumps({"type": "structural_tag", "format": MANY})},
    "itself": {"json_schema": json.dumps({"anyOf": [{"$ref": "#"}, {"$ref": "#"}, {}]})},
    "a length": {"json_schema": json.dumps({"type": "string", "maxLength": 100_000})},
}


async def refusal(llm: AsyncClient, form: dict[str, Any], most: int = 8) -> str:
    """Have an answer held to a form; say why it is refused, if it is."""
    request = make(pb.ChatRequest, query="Go on.", output_format=form)
    request.sampling.max_tokens, request.sampling.temperature = most, 0
    try:
        await llm.send(request)
    except InvalidRequest as error:
        (violation,) = error.violations
        assert violation.field == f"output_format.{next(iter(form))}"
        return violation.description
    return ""


@pytest.mark.parametrize("name", ENDLESS)
async def test_what_would_never_end(llm: AsyncClient, name: str) -> None:
    """It is refused by its field, and again without another try; others go on meanwhile."""
    form, reason = ENDLESS[name]
    refused = asyncio.create_task(refusal(llm, form))
    while not refused.done():
        assert (await llm.chat("Hi", max_tokens=2)).complete

    assert reason in await refused
    assert reason in await refusal(llm, form)
    assert (await llm.chat("Hi", max_tokens=2)).complete


@pytest.mark.parametrize("name", BOUNDED)
async def test_what_only_looks_dear(llm: AsyncClient, name: str) -> None:
    """It is answered, or refused for what it costs."""
    refused = asyncio.create_task(refusal(llm, BOUNDED[name]))
    while not refused.done():
        assert (await llm.chat("Hi", max_tokens=2)).complete

    assert (await refused)[: len(SLOW)] in ("", SLOW, LONG)


async def test_what_shows_its_cost_late(llm: AsyncClient) -> None:
    """What a trial does not see ends the answer, and that alone; the engine lives on."""
    form = {"regex": "[A-Z]{150}((.?)*)+"}
    refused = asyncio.create_task(refusal(llm, form, most=256))
    others = 0
    while not refused.done():
        others += (await llm.chat("Hi", max_tokens=2)).complete

    assert await refused == SLOW
    assert others


CALL = {
    "begin": "<call>",
    "content": {"type": "json_schema", "json_schema": {"type": "object"}},
    "end": "</call>",
}
PLAIN: list[tuple[str, Any]] = [
    ("JSON_OBJECT", ""),
    ("CHOICE", '["a", "b"]'),
    ("GRAMMAR", r'root ::= "a \" b" | "c"'),
    ("JSON", True),
    ("JSON", {"type": "array", "items": {"enum": [1, "a"]}, "maxItems": 1000}),
    ("JSON", {"properties": {"pattern": {"type": "number", "minimum": 0}}}),
    ("STRUCTURAL_TAG", {"format": {"type": "triggered_tags", "tags": [CALL]}}),
]
DEAR: list[tuple[str, Any]] = [
    ("REGEX", "a"),
    ("GRAMMAR", 'root ::= "a" b'),
    ("GRAMMAR", 'root ::= "a" | "b"\nb ::= "c"'),
    ("JSON", {"properties": {"a": {"type": "string", "maxLength": 1}}}),
    ("JSON", {"items": {"anyOf": []}}),
    ("JSON", {"maxItems": 1001}),
    ("JSON", {"minimum": 1e300}),
    ("JSON", {"additionalProperties": {"$ref": "#"}}),
    ("JSON", {"title": "a" * 20_000}),
    ("STRUCTURAL_TAG", {"format": {"type": "star", "tags": [CALL]}}),
    ("STRUCTURAL_TAG", {"format": {"type": "triggered_tags", "tags": [CALL | {"end": ""}]}}),
    (
        "STRUCTURAL_TAG",
        {"format": {"type": "triggered_tags", "tags": [CALL | {"content": STAR}]}},
    ),
]


@pytest.mark.usefixtures("vllm")  # has imported it without its warnings
@pytest.mark.parametrize(("kind", "what"), [*PLAIN, *DEAR])
def test_what_has_no_process(kind: str, what: Any) -> None:
    """What is known to be cheap, word by word; all else has one."""
    from vllm.v1.structured_output.backend_types import StructuredOutputOptions

    from talkwire_server.vllm_engine.grammars.plain import is_plain

    text = what if isinstance(what, str) else json.dumps(what)

    assert is_plain(StructuredOutputOptions[kind], text) == ((kind, what) in PLAIN)


async def test_a_tool_that_is_too_dear_is_named(llm: AsyncClient) -> None:
    """Where an answer is held to tools, the only one that may be dear is named."""
    tools = [
        {"function": {"name": "a"}},
        {"function": {"name": "b", "parameters": lengths(40)}},
    ]
    request = make(pb.ChatRequest, query="x", tools=tools, tool_choice={"mode": "MODE_REQUIRED"})
    with pytest.raises(InvalidRequest) as caught:
        await llm.send(request)

    (violation,) = caught.value.violations
    assert violation.field == "tools[1].function.parameters"
    assert LONG in violation.description
