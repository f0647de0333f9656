"""What the messages of a request may say, whatever the model. Knows no other field."""

import re
from collections.abc import Iterator, Sequence

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import Violation

ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

# Without parameters: the type becomes part of a data: URI, in which they would speak for the bytes.
_MIME_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
# An empty answer happens, and a tool may have nothing to tell.
_MAY_BE_EMPTY = (pb.ROLE_ASSISTANT, pb.ROLE_TOOL)


def message_violations(messages: Sequence[pb.Message]) -> Iterator[Violation]:
    """Find the faults of a conversation."""
    calls: set[str] = set()
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        if message.role not in pb.Role.values():
            yield Violation(f"{path}.role", f"unknown role {message.role}", "UNKNOWN_ENUM")
        yield from _content(message, path)
        yield from _calls(message, path, calls)


def _content(message: pb.Message, path: str) -> Iterator[Violation]:
    if message.text and message.parts:
        yield Violation(f"{path}.parts", "must not be set beside text")
    if not (message.text or message.parts or message.role in _MAY_BE_EMPTY):
        yield Violation(f"{path}.text", "required", "REQUIRED")
    for j, part in enumerate(message.parts):
        kind = part.WhichOneof("part")
        at = f"{path}.parts[{j}]"
        if kind is None:
            yield Violation(at, "must be a text, an image, a sound or a film", "REQUIRED")
        elif kind == "text":
            if not part.text:
                yield Violation(f"{at}.text", "must not be empty", "REQUIRED")
        else:
            if message.role == pb.ROLE_ASSISTANT:  # whose templates have no place for any
                yield Violation(f"{at}.{kind}", "an assistant says text only")
            yield from _medium(getattr(part, kind), f"{at}.{kind}")


def _medium(medium: pb.Media, path: str) -> Iterator[Violation]:
    source = medium.WhichOneof("source")
    if source is None:
        yield Violation(path, "must have data, a uri or a cache_id", "REQUIRED")
    elif not getattr(medium, source):
        yield Violation(f"{path}.{source}", "must not be empty", "REQUIRED")
    if source == "cache_id" and medium.cache_key:
        yield Violation(f"{path}.cache_key", "must not be set beside cache_id")
    for name in ("cache_id", "cache_key"):
        if (value := getattr(medium, name)) and not ID.fullmatch(value):
            yield Violation(f"{path}.{name}", f"must match {ID.pattern}", "MALFORMED")
    if medium.mime_type and not _MIME_TYPE.fullmatch(medium.mime_type):
        yield Violation(f"{path}.mime_type", "must be a type/subtype alone", "MALFORMED")


def _calls(message: pb.Message, path: str, calls: set[str]) -> Iterator[Violation]:
    """Find the faults of tool calls and results; `calls` are the ids of those before."""
    if message.role != pb.ROLE_ASSISTANT:
        for name in ("reasoning", "tool_calls"):
            if getattr(message, name):
                yield Violation(f"{path}.{name}", "is the assistant's alone")
    for k, call in enumerate(message.tool_calls):
        at = f"{path}.tool_calls[{k}]"
        for name in ("id", "name"):
            if not getattr(call, name):
                yield Violation(f"{at}.{name}", "required", "REQUIRED")
        calls.add(call.id)
    if message.role != pb.ROLE_TOOL:
        if message.tool_call_id:
            yield Violation(f"{path}.tool_call_id", "is a tool's alone")
    elif not message.tool_call_id:
        yield Violation(f"{path}.tool_call_id", "required", "REQUIRED")
    elif message.tool_call_id not in calls:
        yield Violation(f"{path}.tool_call_id", "answers no call of a message before it")
