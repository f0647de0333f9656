"""What a ChatRequest may say, whatever the model. Finds every fault at once; changes nothing."""

import math
import re
from collections.abc import Iterator
from typing import TypeAlias

from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import Violation

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

Support: TypeAlias = "dict[str, Support] | None"
"""Fields of a message that an engine honours, each with those of its own; None: all below."""

# Template variables that are the request's own fields or the server's business.
_RESERVED = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "messages",
    "return_dict",
    "return_tensors",
    "tokenize",
    "tools",
}


def beyond(message: Message, supported: Support, path: str = "") -> Iterator[str]:
    """Name every part of a message that is set and not supported.

    So nothing is ever ignored: a new field of the contract starts refused.
    """
    if supported is None:
        return
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]  # of a newer contract
        yield f"{path}field {unknown.field_number}"
    for field, value in message.ListFields():
        name = path + field.name
        if field.name not in supported:
            yield name
        elif isinstance(value, Message):
            yield from beyond(value, supported[field.name], f"{name}.")
        elif field.message_type and not field.message_type.GetOptions().map_entry:
            for i, item in enumerate(value):
                yield from beyond(item, supported[field.name], f"{name}[{i}].")


def violations(request: pb.ChatRequest) -> list[Violation]:
    """Find every fault of the request that can be seen without the model."""
    return [*_conversation(request), *_sampling(request.sampling)]


def _conversation(request: pb.ChatRequest) -> Iterator[Violation]:
    if not request.query and not request.messages:
        yield Violation("query", "required unless messages are given", "REQUIRED")
    for i, message in enumerate(request.messages):
        if message.role not in pb.Role.values():
            yield Violation(f"messages[{i}].role", f"unknown role {message.role}", "UNKNOWN_ENUM")
        if not message.text and not message.parts and message.role != pb.ROLE_ASSISTANT:
            yield Violation(f"messages[{i}].text", "required", "REQUIRED")
    for name in sorted(_RESERVED & request.template.kwargs.fields.keys()):
        yield Violation(f"template.kwargs.{name}", "is the server's to set", "RESERVED")
    if request.template.continue_final_message:
        last = request.messages[-1] if request.messages and not request.query else None
        if last is None or last.role != pb.ROLE_ASSISTANT:
            yield Violation(
                "template.continue_final_message", "the last message must be the assistant's"
            )
    if request.request_id and not REQUEST_ID.fullmatch(request.request_id):
        yield Violation("request_id", f"must match {REQUEST_ID.pattern}", "MALFORMED")


def _sampling(sampling: pb.Sampling) -> Iterator[Violation]:
    def bad(name: str, rule: str, value: object) -> Violation:
        return Violation(f"sampling.{name}", f"must be {rule}, got {value}", "OUT_OF_RANGE")

    for name, (low, high, rule) in _RANGES.items():
        if sampling.HasField(name):  # type: ignore[arg-type]  # the table holds field names
            value = getattr(sampling, name)
            if not low <= value <= high:  # also false for NaN
                yield bad(name, rule, f"{value:g}" if isinstance(value, float) else value)
    if 1 <= sampling.max_tokens < sampling.min_tokens:
        yield bad("min_tokens", f"<= max_tokens ({sampling.max_tokens})", sampling.min_tokens)
    for name in ("stop", "bad_words"):
        for i, word in enumerate(getattr(sampling, name)):
            if not word:
                yield Violation(f"sampling.{name}[{i}]", "must not be empty", "REQUIRED")
    for name in ("stop_token_ids", "allowed_token_ids"):
        for i, token in enumerate(getattr(sampling, name)):
            if token < 0:
                yield bad(f"{name}[{i}]", ">= 0", token)
    for token, bias in sampling.logit_bias.items():
        if token < 0:
            yield bad(f"logit_bias[{token}]", "keyed by token ids >= 0", token)
        if not -100 <= bias <= 100:
            yield bad(f"logit_bias[{token}]", "in [-100, 100]", f"{bias:g}")


_TINY = math.ulp(0.0)
_MOST = math.nextafter(math.inf, 0)
# field: (lowest, highest, rule)
_RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0, _MOST, ">= 0"),
    "top_p": (_TINY, 1, "in (0, 1]"),
    "top_k": (-1, _MOST, ">= 1, or 0 or -1 to turn it off"),
    "min_p": (0, 1, "in [0, 1]"),
    "max_tokens": (1, _MOST, ">= 1"),
    "min_tokens": (0, _MOST, ">= 0"),
    "presence_penalty": (-2, 2, "in [-2, 2]"),
    "frequency_penalty": (-2, 2, "in [-2, 2]"),
    "repetition_penalty": (_TINY, _MOST, "> 0"),
}
