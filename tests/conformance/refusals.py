"""What both refuse."""

from collections.abc import Mapping
from typing import Any

from conformance.cases import FRANCE, Case, Flags, case
from conformance.tools import PAINT, to_us, to_vllm
from talkwire_proto.v1 import chat_pb2 as pb


def refused(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Case:
    return case(f"refused: {name}", ours, theirs)


PIXEL = "data:image/png;base64,iVBORw0KGgo="


def shown(kind: str) -> Case:
    """Make a case of a medium, which this model does not take."""
    part = {kind: {"uri": PIXEL.replace("image", kind)}}
    theirs = {"type": f"{kind}_url", f"{kind}_url": {"url": PIXEL.replace("image", kind)}}
    return refused(
        f"{kind} to a model of text",
        {"messages": [{"parts": [part]}]},
        {"messages": [{"role": "user", "content": [theirs]}]},
    )


REFUSALS = [
    refused(
        "a prompt longer than the context",
        {"query": FRANCE * 500},
        {"messages": [{"role": "user", "content": FRANCE * 500}]},
    ),
    refused("an unknown model", {"model": "gpt-5"}, {"model": "gpt-5"}),
    refused(
        "a schema that is none",
        {"output_format": {"json_schema": '{"type": "foo"}'}},
        {"structured_outputs": {"json": {"type": "foo"}}},
    ),
    refused(
        "a pattern that is none",
        {"output_format": {"regex": "["}},
        {"structured_outputs": {"regex": "["}},
    ),
    refused(
        "too many logprobs", {"include": {"logprobs": 99}}, {"logprobs": True, "top_logprobs": 99}
    ),
    refused("temperature", {"sampling": {"temperature": -1}}, {"temperature": -1}),
    refused("top_p", {"sampling": {"top_p": 2}}, {"top_p": 2}),
    refused("max_tokens", {"sampling": {"max_tokens": 0}}, {"max_completion_tokens": 0}),
    refused(
        "an unknown token",
        {"sampling": {"allowed_token_ids": [10**6]}},
        {"allowed_token_ids": [10**6]},
    ),
    refused(
        "a call of no tool",
        {"tool_choice": {"mode": pb.ToolChoice.MODE_REQUIRED}},
        {"tool_choice": "required"},
    ),
    refused(
        "tools without a parser",
        {"tools": to_us(PAINT)},
        {"tools": to_vllm(PAINT)},
    ),
    case(
        # The engine's process was not told what a thought is, so it cannot count.
        "refused: max_tokens of thought",
        {"reasoning": {"max_tokens": 5}},
        {"thinking_token_budget": 5},
        Flags(reasoning_parser="qwen3", markers=True),
    ),
    refused("n, greedy", {"n": 2}, {"n": 2}),
    shown("image"),
    shown("audio"),
    shown("video"),
]
