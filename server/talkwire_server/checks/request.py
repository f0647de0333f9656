"""The request as a whole: who checks what of it, and what is left."""

import math
from collections.abc import Iterator
from itertools import chain, islice
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks.answer import answer_violations
from talkwire_server.checks.message import ID, message_violations
from talkwire_server.checks.sampling import sampling_violations
from talkwire_server.checks.template import struct_violations, template_violations
from talkwire_server.checks.tool import tool_violations
from talkwire_server.errors import MOST_FOUND, UnsupportedFeature, Violation

REQUEST_ID = ID

_LONGEST_SALT = 1024
_LONGEST_DURATION = 315_576_000_000  # seconds: ten thousand years

Support: TypeAlias = "dict[str, Support] | None"
"""Fields of a message that an engine honours, each with those of its own; None: all below."""


def fields(names: str) -> dict[str, Support]:
    """List fields that have none of their own, by their names in one string."""
    return {name: {} for name in names.split()}


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


def refuse_unknown(message: Message) -> None:
    """Raise UnsupportedFeature where a message has fields of a newer contract."""
    unknown = beyond(message, dict.fromkeys(message.DESCRIPTOR.fields_by_name))
    if names := list(islice(unknown, MOST_FOUND)):
        raise UnsupportedFeature(names)


def violations(request: pb.ChatRequest) -> list[Violation]:
    """Find every fault of the request that can be seen without the model, up to MOST_FOUND."""
    found = chain(
        _call(request),
        message_violations(request.messages),
        sampling_violations(request.sampling),
        tool_violations(request),
        answer_violations(request),
        template_violations(request),
        struct_violations(request.engine_options, "engine_options"),
    )
    return list(islice(found, MOST_FOUND))


def _call(request: pb.ChatRequest) -> Iterator[Violation]:
    if not request.query and not request.messages:
        yield Violation("query", "required unless messages are given", "REQUIRED")
    if len(request.cache_salt) > _LONGEST_SALT:
        rule = f"must have at most {_LONGEST_SALT} characters, got {len(request.cache_salt)}"
        yield Violation("cache_salt", rule, "OUT_OF_RANGE")
    if request.request_id and not REQUEST_ID.fullmatch(request.request_id):
        yield Violation("request_id", f"must match {REQUEST_ID.pattern}", "MALFORMED")
    if request.HasField("time_limit") and not _seconds(request.time_limit) > 0:
        yield Violation("time_limit", "must be a Duration > 0", "OUT_OF_RANGE")
    if not _seconds(request.chunking.max_delay) >= 0:
        yield Violation("chunking.max_delay", "must be a Duration >= 0", "OUT_OF_RANGE")
    if (most := request.chunking.min_chars) < 0:
        yield Violation("chunking.min_chars", f"must be >= 0, got {most}", "OUT_OF_RANGE")


def _seconds(duration: Duration) -> float:
    """Convert a Duration to seconds; NaN if it is out of protobuf's bounds."""
    seconds, nanos = duration.seconds, duration.nanos
    valid = abs(seconds) <= _LONGEST_DURATION and abs(nanos) < 10**9 and seconds * nanos >= 0
    return seconds + nanos / 1e9 if valid else math.nan
