"""What both refuse."""

from collections.abc import Mapping
from typing import Any

from conformance.cases import FRANCE, Case, Flags, case
from conformance.tools import PAINT, to_us, to_vllm
from talkwire_proto.v1 import chat_pb2 as pb


def refused(
    name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], code: str, named: str
) -> Case:
    return case(f"refused: {name}", ours, theirs, refusal=(code, named))


INVALID, LACKING = "INVALID_ARGUMENT", "FAILED_PRECONDITION"
PIXEL = "data:image/png;base64,iVBORw0KGgo="


def shown(kind: str) -> Case:
    """Make a case of a medium, which this model does not take."""
    part = {kind: {"uri": PIXEL.replace("image", kind)}}
    theirs = {"type": f"{kind}_url", f"{kind}_url": {"url": PIXEL.replace("image", kind)}}
    return refused(
        f"{kind} to a model of text",
        {"messages": [{"parts": [part]}]},
        {"messages": [{"role": "user", "content": [theirs]}]},
        LACKING,
        f"messages[0].parts[0].{kind}",
    )


REFUSALS = [
    refused(
        "a prompt longer than the context",
        {"query": FRANCE * 500},
        {"messages": [{"role": "user", "content": FRANCE * 500}]},
        INVALID,
        "messages",
    ),
    refused("an unknown model", {"model": "gpt-5"}, {"model": "gpt-5"}, "NOT_FOUND", "gpt-5"),
    refused(
        "a schema that is none",
        {"output_format": {"json_schema": '{"type": "foo"}'}},
        {"structured_outputs": {"json": {"type": "foo"}}},
        INVALID,
        "output_format.json_schema",
    ),
    refused(
        "a pattern that is none",
        {"output_format": {"regex": "["}},
        {"structured_outputs": {"regex": "["}},
        INVALID,
        "output_format.regex",
    ),
    refused(
        "too many logprobs",
        {"include": {"logprobs": 99}},
        {"logprobs": True, "top_logprobs": 99},
        INVALID,
        "include.logprobs",
    ),
    refused(
        "temperature",
        {"sampling": {"temperature": -1}},
        {"temperature": -1},
        INVALID,
        "sampling.temperature",
    ),
    refused("top_p", {"sampling": {"top_p": 2}}, {"top_p": 2}, INVALID, "sampling.top_p"),
    refused(
        "max_tokens",
        {"sampling": {"max_tokens": 0}},
        {"max_completion_tokens": 0},
        INVALID,
        "sampling.max_tokens",
    ),
    refused(
        "an unknown token",
        {"sampling": {"allowed_token_ids": [10**6]}},
        {"allowed_token_ids": [10**6]},
        INVALID,
        "sampling.allowed_token_ids",
    ),
    refused(
        "a call of no tool",
        {"tool_choice": {"mode": pb.ToolChoice.MODE_REQUIRED}},
        {"tool_choice": "required"},
        INVALID,
        "tool_choice.mode",
    ),
    refused(
        "tools without a parser",
        {"tools": to_us(PAINT)},
        {"tools": to_vllm(PAINT)},
        LACKING,
        "tools with tool_choice AUTO",
    ),
    case(
        # The engine's process was not told what a thought is, so it cannot count.
        "refused: max_tokens of thought",
        {"reasoning": {"max_tokens": 5}},
        {"thinking_token_budget": 5},
        Flags(reasoning_parser="qwen3", markers=True),
        refusal=(LACKING, "reasoning.max_tokens"),
    ),
    refused("n, greedy", {"n": 2}, {"n": 2}, INVALID, "n"),
    shown("image"),
    shown("audio"),
    shown("video"),
]
