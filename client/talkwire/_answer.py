"""What the clients return: answers and the chunks of a stream, in Python's own types."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from talkwire_proto.v1 import chat_pb2 as pb

FinishReason: TypeAlias = Literal[
    "unknown", "stop", "length", "tool_calls", "time_limit", "aborted", "repetition"
]
"""Why an answer ended; `unknown` while it has not, and for values newer than this client."""

_FINISH_REASONS: Mapping[int, FinishReason] = dict(enumerate(get_args(FinishReason)))


class IncompleteOutput(ValueError):
    """An answer has no value: it was cut, or calls tools instead."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What an answer took on the server, in seconds from its arrival there."""

    queue: float
    first_token: float
    total: float


class Chunk:
    """One increment of an answer. `str(chunk)` is its text."""

    __slots__ = ("proto",)

    def __init__(self, proto: pb.ChatStreamResponse) -> None:
        self.proto = proto

    @property
    def text(self) -> str:
        """New text; may be empty."""
        return self.proto.text

    @property
    def reasoning(self) -> str:
        """New thought; may be empty."""
        return self.proto.reasoning

    @property
    def tool_calls(self) -> list[pb.ToolCallDelta]:
        """New pieces of calls; `index` says of which call."""
        return list(self.proto.tool_calls)

    @property
    def logprobs(self) -> list[pb.TokenLogprob]:
        """Log-probabilities of the new tokens, if `include` asked for them."""
        return list(self.proto.logprobs)

    @property
    def token_ids(self) -> list[int]:
        """Ids of the new tokens, if `include` asked for them; the text may lag behind."""
        return list(self.proto.token_ids)

    @property
    def index(self) -> int:
        """Which of the n answers; 0 when n is 1."""
        return self.proto.index

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the answer ended, on its last chunk; None before."""
        return finish_reason(self.proto.finish_reason) if self.proto.finish_reason else None

    def __str__(self) -> str:
        return self.proto.text

    def __repr__(self) -> str:
        return f"<Chunk {self.proto.text!r}>"


class Answer:
    """An answer, whole or as far as it came. `str(answer)` is its text."""

    __slots__ = ("_read", "proto")

    def __init__(self, proto: pb.ChatResponse, read: Callable[[str], Any] = str) -> None:
        self.proto = proto
        self._read = read

    @property
    def text(self) -> str:
        """The text."""
        return self.proto.message.text

    @property
    def reasoning(self) -> str:
        """What the model thought, if it thinks and its thoughts were sent."""
        return self.proto.message.reasoning

    @property
    def tool_calls(self) -> list[pb.ToolCall]:
        """The calls it makes; `arguments` are JSON as the model wrote it."""
        return list(self.proto.message.tool_calls)

    @property
    def message(self) -> pb.Message:
        """The answer as a message: append it to the conversation to go on."""
        return self.proto.message

    @property
    def parsed(self) -> Any:
        """The value of the text, as `output` asked for it.

        An instance of a type, the plain value of a JSON Schema or of `dict`; else the text.

        Raises:
            IncompleteOutput: The answer did not come to its own end ("stop").
            ValueError: The text is no such value (pydantic's error, or json's).

        """
        if self.finish_reason != "stop":
            msg = f"the answer has no value: it ended with {self.finish_reason!r}"
            raise IncompleteOutput(msg)
        return self._read(self.text)

    @property
    def alternatives(self) -> list["Answer"]:
        """Answers 2 to n, where n is more than 1. They share id, model, usage and timing."""
        shared = pb.ChatResponse(id=self.id, model=self.model)
        if self.complete:
            shared.usage.CopyFrom(self.proto.usage)
            shared.timing.CopyFrom(self.proto.timing)
        return [Answer(_response(choice, shared), self._read) for choice in self.proto.alternatives]

    @property
    def logprobs(self) -> list[pb.TokenLogprob]:
        """Log-probabilities of its tokens, if `include` asked for them."""
        return list(self.proto.logprobs)

    @property
    def token_ids(self) -> list[int]:
        """Ids of its tokens, if `include` asked for them."""
        return list(self.proto.token_ids)

    @property
    def prompt_logprobs(self) -> list[pb.TokenLogprob]:
        """Log-probabilities of the prompt's tokens, if `include` asked for them."""
        return list(self.proto.prompt_logprobs)

    @property
    def prompt_token_ids(self) -> list[int]:
        """Ids of the prompt's tokens, if `include` asked for them."""
        return list(self.proto.prompt_token_ids)

    @property
    def finish_reason(self) -> FinishReason:
        """Why it ended."""
        return finish_reason(self.proto.finish_reason)

    @property
    def stopped_by(self) -> str | int | None:
        """The stop word or the id of the stop token that ended it, if one did."""
        match self.proto.stop_match.WhichOneof("match"):
            case "text":
                return self.proto.stop_match.text
            case "token_id":
                return self.proto.stop_match.token_id
        return None

    @property
    def complete(self) -> bool:
        """Whether it ended normally (for whatever reason), usage and timing included."""
        return self.proto.HasField("usage")

    @property
    def usage(self) -> pb.Usage:
        """Tokens of the whole request."""
        return self.proto.usage

    @property
    def timing(self) -> Timing:
        """What it took."""
        timing = self.proto.timing
        return Timing(
            timing.queue.ToNanoseconds() / 1e9,
            timing.first_token.ToNanoseconds() / 1e9,
            timing.total.ToNanoseconds() / 1e9,
        )

    @property
    def id(self) -> str:
        """The request's id."""
        return self.proto.id

    @property
    def model(self) -> str:
        """The model that answered."""
        return self.proto.model

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        usage = self.usage
        return (
            f"<Answer {self.text!r} {self.finish_reason}, "
            f"{usage.prompt_tokens} tokens in, {usage.completion_tokens} out>"
        )


def _response(choice: pb.Choice, shared: pb.ChatResponse) -> pb.ChatResponse:
    response = pb.ChatResponse(**{field.name: value for field, value in choice.ListFields()})
    response.MergeFrom(shared)
    return response


def finish_reason(value: int) -> FinishReason:
    """Name a value of pb.FinishReason."""
    return _FINISH_REASONS.get(value, "unknown")
