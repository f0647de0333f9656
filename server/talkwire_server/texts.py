"""The texts of a request that a chat template sees. Knows no template."""

import json
from collections.abc import Callable
from typing import Any, TypeAlias

from google.protobuf import json_format
from google.protobuf.message import Message

from talkwire_proto.v1 import chat_pb2 as pb

Change: TypeAlias = Callable[[str, str, bool], str]
"""Of a field's path, a text in it, and whether the model said it, to what it shall be."""


def change_texts(request: pb.ChatRequest, change: Change) -> None:
    """Change every text, those inside JSON and template variables, too."""
    _field(request, "query", "query", change)
    _field(request, "system", "system", change)
    for i, message in enumerate(request.messages):
        _message(message, f"messages[{i}]", change)
    for i, tool in enumerate(request.tools):
        path = f"tools[{i}].function"
        _field(tool.function, "name", f"{path}.name", change)
        _field(tool.function, "description", f"{path}.description", change)
        _json(tool.function, "parameters", f"{path}.parameters", change)
    _field(request.continuation, "text", "continuation.text", change, by_model=True)
    _struct(request.template.kwargs, "template.kwargs", change)
    for i, document in enumerate(request.template.documents):
        _struct(document, f"template.documents[{i}]", change)


def characters(request: pb.ChatRequest) -> int:
    """Count the characters of what the model sees; of a template's variables the bytes."""
    count = len(request.query) + len(request.system) + request.template.ByteSize()
    count += len(request.continuation.text)
    for message in request.messages:
        count += len(message.text) + len(message.reasoning)
        count += sum(len(part.text) for part in message.parts)
        count += sum(len(call.arguments) for call in message.tool_calls)
    for tool in request.tools:
        count += len(tool.function.description) + len(tool.function.parameters)
    return count


def _message(message: pb.Message, path: str, change: Change) -> None:
    by_model = message.role == pb.ROLE_ASSISTANT
    for name in ("text", "reasoning"):
        _field(message, name, f"{path}.{name}", change, by_model)
    for name in ("name", "tool_call_id"):
        _field(message, name, f"{path}.{name}", change)
    for j, part in enumerate(message.parts):
        _field(part, "text", f"{path}.parts[{j}].text", change, by_model)
    for k, call in enumerate(message.tool_calls):
        at = f"{path}.tool_calls[{k}]"
        for name in ("id", "name"):
            _field(call, name, f"{at}.{name}", change)
        _json(call, "arguments", f"{at}.arguments", change)


def _field(message: Message, name: str, path: str, change: Change, by_model: bool = False) -> None:
    old = getattr(message, name)
    if old and (new := change(path, old, by_model)) != old:
        setattr(message, name, new)


def _json(message: Message, name: str, path: str, change: Change) -> None:
    """Change the strings of a JSON text, which may be spelled with escapes in it."""
    try:
        old = json.loads(getattr(message, name) or "null")
        new = _mapped(old, path, change)
    except (ValueError, RecursionError):  # is not shown to the model
        return
    if new != old:
        setattr(message, name, json.dumps(new, ensure_ascii=False))


def _struct(struct: Message, path: str, change: Change) -> None:
    old = json_format.MessageToDict(struct)
    if (new := _mapped(old, path, change)) != old:
        struct.Clear()
        json_format.ParseDict(new, struct)


def _mapped(value: Any, path: str, change: Change) -> Any:
    if isinstance(value, str):
        return change(path, value, False)
    if isinstance(value, list):
        return [_mapped(item, path, change) for item in value] if value else value
    if isinstance(value, dict):
        return {
            change(path, key, False): _mapped(item, path, change) for key, item in value.items()
        }
    return value
