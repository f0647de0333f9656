"""What a request may say of tools, whatever the model. Knows no messages."""

import re
from collections.abc import Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks.json_text import json_fault
from talkwire_server.errors import Violation

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def tool_violations(request: pb.ChatRequest) -> Iterator[Violation]:
    """Find the faults of the tools and of the choice among them."""
    names: set[str] = set()
    for i, tool in enumerate(request.tools):
        if tool.HasField("function"):
            yield from _function(tool.function, f"tools[{i}].function", names)
        else:
            yield Violation(f"tools[{i}]", "must be a function", "REQUIRED")
    yield from _choice(request.tool_choice, names)


def forces_call(request: pb.ChatRequest) -> bool:
    """Tell whether the answer must be a tool call."""
    choice = request.tool_choice
    return choice.HasField("function") or choice.mode == pb.ToolChoice.MODE_REQUIRED


def _function(function: pb.Function, path: str, names: set[str]) -> Iterator[Violation]:
    """Find the faults of a function; `names` are those of the functions before it."""
    if not function.name:
        yield Violation(f"{path}.name", "required", "REQUIRED")
    elif not _NAME.fullmatch(function.name):
        yield Violation(f"{path}.name", f"must match {_NAME.pattern}", "MALFORMED")
    elif function.name in names:
        yield Violation(f"{path}.name", "is another tool's already")
    names.add(function.name)
    if function.parameters and (fault := json_fault(function.parameters, dict)):
        yield Violation(f"{path}.parameters", fault, "MALFORMED")


def _choice(choice: pb.ToolChoice, names: set[str]) -> Iterator[Violation]:
    if choice.mode not in pb.ToolChoice.Mode.values():
        yield Violation("tool_choice.mode", f"unknown mode {choice.mode}", "UNKNOWN_ENUM")
    if choice.mode == pb.ToolChoice.MODE_REQUIRED and not names:
        yield Violation("tool_choice.mode", "requires a call, but there are no tools")
    if choice.HasField("function") and choice.function not in names:
        yield Violation("tool_choice.function", "is the name of no tool")
