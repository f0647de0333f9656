"""Requests of all kinds to the real engine, and what tells whether two answers are the same."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from support import make
from talkwire import AsyncClient
from talkwire_proto.v1 import chat_pb2 as pb

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOOLS = [{"function": {"name": "paint", "parameters": json.dumps(SCHEMA)}}]
CALL = '<tool_call>\n{"name": "paint", "arguments": {"city": "Oslo", "days": 2}}\n</tool_call>'
SAID = [{"text": "Now."}, {"role": "ROLE_ASSISTANT", "text": f"First this. {CALL}"}] * 2
TOKENS = [504, 3575, 282, 4649, 314]

# What is asked beside the question, and greedy.
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long": {"sampling": {"max_tokens": 100, "ignore_eos": True}},
    "stop words": {"sampling": {"stop": ["zzz, yyy", "the", "Paris"], "include_stop": True}},
    "stop token": {"sampling": {"stop_token_ids": [260, 284]}},
    "two answers": {"n": 2, "sampling": {"temperature": 1, "top_k": 1}},
    "details": {
        "include": {"logprobs": 3, "token_ids": True, "prompt_token_ids": True},
        "sampling": {"min_tokens": 8},
    },
    "all at once": {
        "n": 2,
        "include": {"logprobs": 0, "token_ids": True, "prompt_logprobs": 1},
        "sampling": {"temperature": 1, "top_k": 1, "stop": ["never said", "of"]},
    },
    "all of one": {
        "include": {"logprobs": 0, "token_ids": True, "prompt_logprobs": 1},
        "sampling": {"stop": ["never said", "of", "zzzz"]},
    },
    "form": {"output_format": {"json_schema": json.dumps(SCHEMA)}},
    "forced call": {
        "tools": TOOLS,
        "tool_choice": {"mode": "MODE_REQUIRED"},
        "sampling": {"max_tokens": 96},
    },
    "call of its own": {
        "tools": TOOLS,
        "messages": SAID,
        "query": "Now.",
        "sampling": {"max_tokens": 80},
    },
    "calls of two": {
        "tools": TOOLS,
        "messages": SAID,
        "query": "Now.",
        "n": 2,
        "sampling": {"temperature": 1, "top_k": 1, "max_tokens": 80},
    },
    "continuation": {"continuation": {"token_ids": TOKENS}, "include": {"token_ids": True}},
    "continuation that stops": {
        "continuation": {"token_ids": TOKENS},
        "include": {"token_ids": True, "logprobs": 1},
        "sampling": {"stop": ["never said", "and"]},
    },
    "few characters": {"chunking": {"min_chars": 20}, "include": {"token_ids": True}},
    "little time": {"chunking": {"max_delay": {"nanos": 50_000_000}}},
    "one token": {"sampling": {"max_tokens": 1}},
    "too long": {"sampling": {"max_tokens": 5000}},
}


LOGPROB = re.compile(r"logprob: \S+")  # the sums in it depend on what is computed beside it


def asked(kind: str, number: int) -> pb.ChatRequest:
    """Make a request of a kind, with an id that tells it."""
    fields = {"query": f"Tell me of the {number}. wonder of the world.", **KINDS[kind]}
    fields["sampling"] = {"temperature": 0, "max_tokens": 40, **fields.get("sampling", {})}
    return make(pb.ChatRequest, request_id=f"{kind}-{number}".replace(" ", "-"), **fields)


async def answers(client: AsyncClient, requests: Sequence[pb.ChatRequest]) -> list[Any]:
    """Ask all at once; return the answers or errors, without what differs each time."""

    async def ask(request: pb.ChatRequest) -> Any:
        async with client.send_stream(request) as stream:
            response = (await stream.wait()).proto
        response.ClearField("timing")
        response.usage.ClearField("cached_tokens")
        made: list[Any] = [response, *response.alternatives]
        for answer in made:
            for call in answer.message.tool_calls:
                call.ClearField("id")
        return response

    found = await asyncio.gather(*map(ask, requests), return_exceptions=True)
    return [answer if isinstance(answer, pb.ChatResponse) else repr(answer) for answer in found]


def logprobs(answer: pb.ChatResponse | str) -> list[float]:
    """Return all that an answer holds."""
    return [float(found.split()[1]) for found in LOGPROB.findall(str(answer))]


def assert_same(ones: Sequence[Any], others: Sequence[Any]) -> None:
    """Compare answers, or errors; log-probabilities differ in what rounding makes of them."""
    for one, other in zip(ones, others, strict=True):
        assert LOGPROB.split(str(other)) == LOGPROB.split(str(one))
        assert logprobs(other) == pytest.approx(logprobs(one), abs=1e-4)
