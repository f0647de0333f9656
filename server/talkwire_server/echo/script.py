"""What the echo engine says to a request, token by token. Knows no time and no stream."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks.json_text import json_fault
from talkwire_server.conversation import ROLE_NAMES
from talkwire_server.echo.prompt import logprob, tokens, words
from talkwire_server.engine import Delta
from talkwire_server.errors import InvalidRequest, Violation

MOST_ANSWERS = 128

_CALL = re.compile(r"\s*([A-Za-z0-9_.-]+)\((\{.*\})\)\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Script:
    """An answer, laid out before it is said.

    Attributes:
        request: What it answers.
        tokens: All of it: first thoughts, then words or the arguments of a tool call.
        thoughts: How many of them are thoughts.
        hidden: How many of them are not shown.
        start: How many of them the caller has already.
        tool: The function it calls; empty when it speaks.
        end: How it ends, if nothing ends it before.
        plain: Whether it is one text and nothing else.

    """

    request: pb.ChatRequest
    tokens: list[str]
    thoughts: int
    hidden: int
    start: int
    tool: str
    end: Delta
    plain: bool

    def write(self, at: int, index: int, delta: Delta, call_id: str) -> None:
        """Add the token at a position to a delta of one of the answers."""
        token = self.tokens[at]
        if self.plain:
            delta.text += token
            return
        delta.index = index
        if at < self.thoughts:
            delta.reasoning += token
        elif not self.tool:
            delta.text += token
        else:
            piece = delta.tool_calls.add(arguments=token)
            if at == self.thoughts:
                piece.id, piece.name = f"call-{call_id}-{index}", self.tool
        include = self.request.include
        if include.token_ids:
            delta.token_ids.append(at)
        if include.HasField("logprobs"):
            delta.logprobs.append(logprob(at, token))


def script(request: pb.ChatRequest) -> Script:
    """Lay out the answer to a request, up to where `max_tokens` or a stop word ends it.

    Raises:
        InvalidRequest: It would have to say what is no JSON as JSON, or too many times.

    """
    path, message = _heard(request)
    heard = tokens(message)
    tool, said = _said(request, message, heard)
    if faults := [*_not_json(request.output_format, path, said), *_too_many(request)]:
        raise InvalidRequest(faults)
    thoughts = heard[: request.reasoning.max_tokens or None] if thinks(request) else []
    thoughts, said, end = _ended(request.sampling, thoughts, said, tool)
    start = len(request.continuation.token_ids)
    if text := request.continuation.text:
        _, rest = _cut(said, len(text))
        start = len(said) - len(rest)
        said[start:] = rest
    return Script(
        request=request,
        tokens=thoughts + said,
        thoughts=len(thoughts),
        hidden=len(thoughts) if request.reasoning.exclude else 0,
        start=start,
        tool=tool,
        end=end,
        plain=not (thoughts or tool or request.HasField("include") or request.n > 1),
    )


def thinks(request: pb.ChatRequest) -> bool:
    """Tell whether thoughts are asked for."""
    return request.reasoning.effort > pb.Reasoning.EFFORT_NONE


def _heard(request: pb.ChatRequest) -> tuple[str, pb.Message]:
    """Find what to say back, and its path: the user's last message, or a tool's at the end."""
    if request.query:
        return "query", pb.Message(text=request.query)
    last = len(request.messages) - 1
    for i, message in reversed([*enumerate(request.messages)]):
        if ROLE_NAMES[message.role] == "user" or (message.role == pb.ROLE_TOOL and i == last):
            return f"messages[{i}].{'parts' if message.parts else 'text'}", message
    return "messages", pb.Message()


def _said(request: pb.ChatRequest, message: pb.Message, heard: list[str]) -> tuple[str, list[str]]:
    """Choose the function to call, if any, and what to say or to call it with."""
    text = "".join(heard)
    choice = request.tool_choice
    names = [tool.function.name for tool in request.tools]
    if choice.function or choice.mode == pb.ToolChoice.MODE_REQUIRED:
        return choice.function or names[0], words("{}" if json_fault(text, dict) else text)
    if names and choice.mode != pb.ToolChoice.MODE_NONE and message.role != pb.ROLE_TOOL:
        call = _CALL.fullmatch(text)
        if call and call[1] in names and not json_fault(call[2], dict):
            return call[1], words(call[2])
    if values := request.output_format.choice.values:
        return "", words(values[0])
    return "", heard


def _not_json(wanted: pb.OutputFormat, path: str, said: list[str]) -> Iterator[Violation]:
    kinds = {"json_schema": (), "json_object": (dict,)}.get(wanted.WhichOneof("format") or "")
    if kinds is not None and (fault := json_fault("".join(said), *kinds)):
        yield Violation(path, f"{fault}, and the echo engine says only JSON that it is given")


def _too_many(request: pb.ChatRequest) -> Iterator[Violation]:
    if request.n > MOST_ANSWERS:
        yield Violation("n", f"must be <= {MOST_ANSWERS}, got {request.n}", "OUT_OF_RANGE")


def _ended(
    sampling: pb.Sampling, thoughts: list[str], said: list[str], tool: str
) -> tuple[list[str], list[str], Delta]:
    """Cut an answer where it ends; a stop word is looked for in what is said."""
    end = Delta(finish_reason=pb.FINISH_REASON_TOOL_CALLS if tool else pb.FINISH_REASON_STOP)
    if 0 < sampling.max_tokens < len(thoughts) + len(said):
        thoughts = thoughts[: sampling.max_tokens]
        said = said[: sampling.max_tokens - len(thoughts)]
        end.finish_reason = pb.FINISH_REASON_LENGTH
    text = "".join(said)
    if match := min(((text.find(s), s) for s in sampling.stop if s in text), default=None):
        at, stop = match
        said, _ = _cut(said, at + len(stop) if sampling.include_stop else at)
        end = Delta(finish_reason=pb.FINISH_REASON_STOP, stop_match=pb.StopMatch(text=stop))
    return thoughts, said, end


def _cut(tokens: list[str], size: int) -> tuple[list[str], list[str]]:
    """Part tokens after so many characters; one in the middle of them is cut in two."""
    for i, token in enumerate(tokens):
        if size < len(token):
            return tokens[:i] + [token[:size]] * (size > 0), [token[size:], *tokens[i + 1 :]]
        size -= len(token)
    return tokens, []
