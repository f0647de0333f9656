"""Folds the deltas of an answer into the answer. Does no I/O; server and clients share it."""

from typing import TypeAlias

from talkwire_proto.v1 import chat_pb2 as pb

_Index: TypeAlias = int


class Accumulator:
    """Collects the messages of one `ChatStream` into the `ChatResponse` they amount to.

    Deltas of the answers of n > 1 may come mixed; each answer's own are in order. The messages of
    an answer that broke off, and then those of its continuation, amount to the unbroken answer.

    Args:
        begun: The answer that broke off, if the messages are those of its continuation.

    """

    def __init__(self, begun: pb.ChatResponse | None = None) -> None:
        self._head = pb.ChatResponse()
        self._choices: dict[_Index, _Choice] = {0: _Choice()}
        if begun is not None:
            self.add(_as_delta(begun))
            self._head.prompt_token_ids.extend(begun.prompt_token_ids)
            self._head.prompt_logprobs.extend(begun.prompt_logprobs)

    def add(self, delta: pb.ChatStreamResponse) -> None:
        """Take the next message of the stream."""
        if (choice := self._choices.get(delta.index)) is None:
            choice = self._choices[delta.index] = _Choice()
        choice.add(delta)
        if delta.id:
            self._head.id, self._head.model = delta.id, delta.model
            if not self._head.prompt_token_ids:  # a continuation has the same prompt
                self._head.prompt_token_ids.extend(delta.prompt_token_ids)
            if not self._head.prompt_logprobs:
                self._head.prompt_logprobs.extend(delta.prompt_logprobs)
        if delta.HasField("usage"):
            self._head.usage.CopyFrom(delta.usage)
            self._head.timing.CopyFrom(delta.timing)

    @property
    def text(self) -> str:
        """The text so far, of the first answer."""
        return self._choices[0].text

    @property
    def response(self) -> pb.ChatResponse:
        """The answer so far; the whole one once `usage` is set. A copy, the caller's own."""
        response = pb.ChatResponse()
        response.CopyFrom(self._head)
        first, *others = (choice.result() for _, choice in sorted(self._choices.items()))
        response.message.CopyFrom(first.message)
        response.finish_reason = first.finish_reason
        if first.HasField("stop_match"):
            response.stop_match.CopyFrom(first.stop_match)
        response.logprobs.extend(first.logprobs)
        response.token_ids.extend(first.token_ids)
        response.alternatives.extend(others)
        return response


def _as_delta(begun: pb.ChatResponse) -> pb.ChatStreamResponse:
    """Return what goes on of an answer: neither its call's id and usage, nor its end."""
    return pb.ChatStreamResponse(
        text=begun.message.text,
        reasoning=begun.message.reasoning,
        tool_calls=[
            pb.ToolCallDelta(index=i, id=call.id, name=call.name, arguments=call.arguments)
            for i, call in enumerate(begun.message.tool_calls)
        ],
        logprobs=begun.logprobs,
        token_ids=begun.token_ids,
    )


class _Choice:
    """One of the n answers. Texts are joined once, at the end."""

    def __init__(self) -> None:
        self._choice = pb.Choice(message=pb.Message(role=pb.ROLE_ASSISTANT))
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: dict[_Index, pb.ToolCall] = {}

    def add(self, delta: pb.ChatStreamResponse) -> None:
        # Once a token: what is seldom there is looked for only where it can be.
        if text := delta.text:
            self._text.append(text)
        if thought := delta.reasoning:
            self._reasoning.append(thought)
        for piece in delta.tool_calls:
            call = self._calls.setdefault(piece.index, pb.ToolCall())
            call.id = call.id or piece.id
            call.name = call.name or piece.name
            call.arguments += piece.arguments
        if logprobs := delta.logprobs:
            self._choice.logprobs.extend(logprobs)
        if token_ids := delta.token_ids:
            self._choice.token_ids.extend(token_ids)
        if delta.finish_reason:
            self._choice.finish_reason = delta.finish_reason
            if delta.HasField("stop_match"):
                self._choice.stop_match.CopyFrom(delta.stop_match)

    @property
    def text(self) -> str:
        return "".join(self._text)

    def result(self) -> pb.Choice:
        message = self._choice.message
        message.text = self.text
        message.reasoning = "".join(self._reasoning)
        del message.tool_calls[:]
        message.tool_calls.extend(call for _, call in sorted(self._calls.items()))
        return self._choice
