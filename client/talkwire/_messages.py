"""From Python's values to messages and their parts. Does no I/O."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from talkwire._fields import Faults, pairs, put
from talkwire._media import Audio, Image, Media, Video
from talkwire_proto.v1 import chat_pb2 as pb

MessageLike: TypeAlias = pb.Message | Mapping[str, object]
"""A message, or a mapping that may hold:

    role: "user" (the default), "assistant", "system", "developer" or "tool".
    text: What is said; `content` is the same.
    parts: Instead of a text, a sequence of `PartLike`.
    name: Who speaks; of a tool's result, the function.
    reasoning: What an assistant thought.
    tool_calls: What an assistant called: pb.ToolCalls, or mappings with `id`, `name` and
        `arguments` (JSON text, or what it says).
    tool_call_id: The call that a tool's result answers.
"""

PartLike: TypeAlias = str | Image | Audio | Video | pb.Part
"""A piece of mixed content."""

Query: TypeAlias = str | Sequence[PartLike]
"""What a user says: a text, or texts and media in order."""

_ROLES = {name.removeprefix("ROLE_").lower(): value for name, value in pb.Role.items()}


def messages(items: Iterable[MessageLike], faults: Faults) -> list[pb.Message]:
    """Make messages of what stands for them."""
    made = []
    for i, item in enumerate(items):
        with faults.at(f"[{i}]"):
            made.append(item if isinstance(item, pb.Message) else _message(item, faults))
    return made


def user(query: Query, faults: Faults) -> pb.Message:
    """Make the message of a query."""
    message = pb.Message(role=pb.ROLE_USER)
    if isinstance(query, str):
        message.text = query
    else:
        _add_parts(message, query, faults)
    return message


def saying(message: pb.Message) -> Query:
    """Return what a message says, as a query."""
    return list(message.parts) or message.text


def _message(item: Mapping[str, Any], faults: Faults) -> pb.Message:
    message = pb.Message(role=pb.ROLE_USER)
    for key, value in pairs(item):
        with faults.at(f".{key}"):
            match key:
                case "role":
                    message.role = _role(value)
                case "content" if "text" in item:
                    raise ValueError("is the same as text: give one of them")
                case "content":
                    put(message, "text", value)
                case "parts":
                    _add_parts(message, value, faults)
                case "tool_calls":
                    _add_calls(message, value, faults)
                case _:
                    put(message, key, value)
    return message


def _role(value: Any) -> pb.Role.ValueType:
    if value not in _ROLES:
        msg = f"unknown role {value!r}"
        raise ValueError(msg)
    return _ROLES[value]


def _add_parts(message: pb.Message, items: Any, faults: Faults) -> None:
    if isinstance(items, str) or not isinstance(items, Iterable):
        msg = f"must be a list of parts, not {type(items).__name__}"
        raise TypeError(msg)
    for i, item in enumerate(items):
        with faults.at(f"[{i}]"):
            message.parts.append(_part(item))


def _part(item: PartLike) -> pb.Part:
    match item:
        case pb.Part():
            return item
        case str():
            return pb.Part(text=item)
        case Media():
            part = pb.Part()
            put(part, item.kind, item.proto)
            return part
    msg = f"must be a string, an Image, Audio or Video, not {type(item).__name__}"
    raise TypeError(msg)


def _add_calls(message: pb.Message, items: Iterable[Any], faults: Faults) -> None:
    for i, item in enumerate(items):
        with faults.at(f"[{i}]"):
            call = item if isinstance(item, pb.ToolCall) else _call(item, faults)
            message.tool_calls.append(call)


def _call(item: Mapping[str, Any], faults: Faults) -> pb.ToolCall:
    call = pb.ToolCall()
    for key, value in pairs(item):
        with faults.at(f".{key}"):
            put(call, key, as_json(value) if key == "arguments" else value)
    return call


def as_json(value: Any) -> str:
    """Return a text as it is, and anything else as JSON, in its own order of keys."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
