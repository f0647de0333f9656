"""The prompt of a model that there is not: the conversation, written down in words.

A token is a word with the space before it, or a whole medium; its id is its position.
"""

import re
from collections.abc import Iterator, Sequence

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.conversation import ROLE_NAMES, conversation

_WORD = re.compile(r"\s*\S+|\s+$")


def prompt(request: pb.ChatRequest, default_system: str) -> Sequence[str]:
    """Write a request down, `role: text` a line. Joined, the tokens are the text."""
    made: list[str] = []
    for message in conversation(request, default_system):
        first, *rest = tokens(message) or [""]
        label = ("\n" if made else "") + ROLE_NAMES[message.role]
        made += [f"{label}: {first}", *rest]
    return made


def tokens(message: pb.Message) -> list[str]:
    """Cut a message into tokens; its parts and its tool calls are lines."""
    made: list[str] = []
    for first, *rest in filter(None, _lines(message)):
        made += ["\n" + first if made else first, *rest]
    return made


def words(text: str) -> list[str]:
    """Cut a text into tokens."""
    return _WORD.findall(text)


def media(request: pb.ChatRequest) -> int:
    """Count the media of a request."""
    parts = (part for message in request.messages for part in message.parts)
    return sum(part.WhichOneof("part") != "text" for part in parts)


def logprob(at: int, token: str) -> pb.TokenLogprob:
    """Say of the token at a position that no other could have come."""
    return pb.TokenLogprob(token_id=at, token=token, logprob=0, rank=1)


def _lines(message: pb.Message) -> Iterator[list[str]]:
    yield words(message.text)
    for part in message.parts:
        kind = part.WhichOneof("part")
        if kind == "text":
            yield words(part.text)
        elif kind:
            medium: pb.Media = getattr(part, kind)
            yield [f"[{medium.mime_type or kind} {len(medium.data)} bytes]"]
    for call in message.tool_calls:
        yield words(f"{call.name}({call.arguments})")
