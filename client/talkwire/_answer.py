"""What the clients return: answers and the chunks of a stream, in Python's own types."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from talkwire_proto.v1 import chat_pb2 as pb

FinishReason: TypeAlias = Literal[
    "unknown", "stop", "length", "tool_calls", "time_limit", "aborted", "repetition"
]
"""Why an answer ended; `unknown` while it has not, and for values newer than this client."""

_FINISH_REASONS: Mapping[int, FinishReason] = dict(enumerate(get_args(FinishReason)))


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

    __slots__ = ("proto",)

    def __init__(self, proto: pb.ChatResponse) -> None:
        self.proto = proto

    @property
    def text(self) -> str:
        """The text."""
        return self.proto.message.text

    @property
    def reasoning(self) -> str:
        """What the model thought, if it thinks and its thoughts were sent."""
        return self.proto.message.reasoning

    @property
    def message(self) -> pb.Message:
        """The answer as a message: append it to the conversation to go on."""
        return self.proto.message

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


def finish_reason(value: int) -> FinishReason:
    """Name a value of pb.FinishReason."""
    return _FINISH_REASONS.get(value, "unknown")
