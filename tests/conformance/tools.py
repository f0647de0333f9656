"""Tools, and the choice among them: in both vocabularies."""

import json
from collections.abc import Mapping
from typing import Any

from conformance.cases import IDS, PLAIN, RICH, RICH_TEMPLATE, Case, Flags, Why, case
from conformance.sampling import DRAW
from talkwire_proto.v1 import chat_pb2 as pb

HERMES = Flags("hermes", "", RICH_TEMPLATE, markers=True)

PAINT: dict[str, Any] = {
    "name": "paint",
    "description": "Paint it.",
    "parameters": {
        "type": "object",
        "properties": {"color": {"enum": ["red", "blue"]}},
        "required": ["color"],
        "additionalProperties": False,
    },
}
NOW: dict[str, Any] = {"name": "now", "parameters": {"type": "object", "properties": {}}}
RED = '<tool_call>\n{"name": "paint", "arguments": {"color": "red"}}\n</tool_call>'


def to_us(*functions: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Spell functions as talkwire's tools."""
    return [
        {"function": {**function, "parameters": json.dumps(function["parameters"])}}
        for function in functions
    ]


def to_vllm(*functions: Mapping[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Spell functions as vLLM's tools."""
    return [{"type": "function", "function": {**function, **more}} for function in functions]


def calling(
    name: str,
    ours: Mapping[str, Any] | None = None,
    theirs: Mapping[str, Any] | None = None,
    flags: Flags = HERMES,
    differs: Mapping[str, Why] | None = None,
    says: str = "",
) -> Case:
    """Make a case of two tools, with room for two calls. Forced ones are strict with us."""
    to_them = dict(theirs or {})
    strict = {} if to_them.get("tool_choice", "auto") in ("auto", "none") else {"strict": True}
    tools = {"tools": to_us(PAINT, NOW), "sampling": {"max_tokens": 64}, **(ours or {})}
    to_them = {"tools": to_vllm(PAINT, NOW, **strict), "max_completion_tokens": 64, **to_them}
    return case(f"tools, {name}", tools, to_them, flags, differs, says=says)


PAINT_IT = {"type": "function", "function": {"name": "paint"}}
AUTO = {"tool_choice": {"mode": pb.ToolChoice.MODE_AUTO}}
NONE = {"tool_choice": {"mode": pb.ToolChoice.MODE_NONE}}
REQUIRED = {"tool_choice": {"mode": pb.ToolChoice.MODE_REQUIRED}}
NAMED = {"tool_choice": {"function": "paint"}}
ONE_AT_MOST = {"parallel_tool_calls": False}
TOOLS = [
    calling("auto by default"),
    calling("auto", AUTO, {"tool_choice": "auto"}),
    calling("a call", says=RED),
    calling("text and two calls", says=f"Now.\n{RED}\n{RED}"),
    calling(
        "a call cut off",
        {"sampling": {"max_tokens": 16}},
        {"max_completion_tokens": 16},
        differs={"unary.text": Why.CUT, "unary.tool_calls": Why.CUT},
        says=RED,
    ),
    calling(
        "a call cut off before its arguments",
        {"sampling": {"max_tokens": 9}},
        {"max_completion_tokens": 9},
        differs={
            "unary.text": Why.CUT,
            "unary.tool_calls": Why.CUT,
            "stream.tool_calls": Why.EMPTY,
        },
        says=RED,
    ),
    calling(
        "cut off after a call",
        {"sampling": {"max_tokens": 22}},
        {"max_completion_tokens": 22},
        differs={"unary.finish_reason": Why.LATER},
        says=f"{RED}\n{RED}",
    ),
    calling("none", NONE, {"tool_choice": "none"}),
    calling("none, what looks like a call", NONE, {"tool_choice": "none"}, says=RED),
    calling(
        "required",
        REQUIRED,
        {"tool_choice": "required"},
        differs={"unary.tool_calls": Why.SPELLED},
    ),
    calling(
        "required of one",
        {**REQUIRED, "tools": to_us(PAINT)},
        {"tool_choice": "required", "tools": to_vllm(PAINT, strict=True)},
        differs={"unary.tool_calls": Why.SPELLED},
    ),
    calling(
        "required, not strict",
        {**REQUIRED, "tools": to_us({**PAINT, "strict": False})},
        {"tool_choice": "required", "tools": to_vllm(PAINT, strict=False)},
        differs={"unary.text": Why.CUT, "unary.tool_calls": Why.CUT},
    ),
    calling(
        "required, no parser",
        REQUIRED,
        {"tool_choice": "required"},
        PLAIN,
        {"refused": Why.NO_PARSER},
    ),
    calling(
        "required, one call at most",
        REQUIRED | ONE_AT_MOST,
        {"tool_choice": "required", **ONE_AT_MOST},
        differs={"unary.tool_calls": Why.SPELLED},
    ),
    calling(
        "named",
        NAMED,
        {"tool_choice": PAINT_IT},
        differs={"finish_reason": Why.NAMED, "unary.tool_calls": Why.SPELLED},
    ),
    calling(
        "named, no parser", NAMED, {"tool_choice": PAINT_IT}, PLAIN, {"refused": Why.NO_PARSER}
    ),
    calling(
        "auto, strict",
        {"tools": to_us({**PAINT, "strict": True})},
        {"tools": to_vllm(PAINT, strict=True)},
    ),
    calling("one call at most", ONE_AT_MOST, ONE_AT_MOST),
    calling("one call of two", ONE_AT_MOST, ONE_AT_MOST, says=f"{RED}\n{RED}"),
    calling("in the prompt", IDS, {}, RICH),
    calling("in the prompt, none", {**NONE, **IDS}, {"tool_choice": "none"}, RICH),
    calling(
        "with the tokens",
        {"include": {"logprobs": 0, "token_ids": True}},
        {"logprobs": True, "top_logprobs": 0},
        says=RED,
    ),
    calling(
        "n answers",
        {"n": 2, "sampling": {**DRAW, "max_tokens": 40}},
        {"n": 2, **DRAW, "max_completion_tokens": 40},
        says=RED,
    ),
]
