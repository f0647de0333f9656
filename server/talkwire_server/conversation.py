"""The conversation that a request means: system prompt, messages, query, in this order."""

from collections.abc import Sequence

from talkwire_proto.v1 import chat_pb2 as pb

DEFAULT_SYSTEM = "You are a helpful assistant."

ROLE_NAMES = {
    pb.ROLE_UNSPECIFIED: "user",
    pb.ROLE_SYSTEM: "system",
    pb.ROLE_USER: "user",
    pb.ROLE_ASSISTANT: "assistant",
    pb.ROLE_TOOL: "tool",
    pb.ROLE_DEVELOPER: "developer",
}
"""Roles in the words of chat templates."""


def conversation(request: pb.ChatRequest, default_system: str) -> Sequence[pb.Message]:
    """Lay out a request's messages as the model shall see them.

    An unset `system` means `default_system`, unless the messages bring their own; the empty
    string means none.
    """
    messages = list(request.messages)
    own = bool(messages) and messages[0].role in (pb.ROLE_SYSTEM, pb.ROLE_DEVELOPER)
    system = request.system if request.HasField("system") else "" if own else default_system
    if system:
        messages.insert(0, pb.Message(role=pb.ROLE_SYSTEM, text=system))
    if request.query:
        messages.append(pb.Message(role=pb.ROLE_USER, text=request.query))
    return messages
