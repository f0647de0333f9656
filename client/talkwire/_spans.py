"""The span of a chat where the program traces itself; else there is none, and nothing to pay.

Imports no OpenTelemetry: a program that traces itself has done that.
"""

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from talkwire._options import Incoming, Options
from talkwire_proto.v1 import chat_pb2 as pb


class Span(Protocol):
    """What is told of one chat, with all its tries.

    Attributes:
        headers: The metadata that make the server's spans part of it.

    """

    headers: dict[str, str]

    def end(self, answer: Callable[[], pb.ChatResponse], error: BaseException | None) -> None:
        """Say how it ended: well, with an error, or by GeneratorExit: it was left. Idempotent."""
        ...


class _NoSpan:
    headers: dict[str, str] = {}  # noqa: RUF012  # nobody writes to it

    def end(self, answer: Callable[[], pb.ChatResponse], error: BaseException | None) -> None:
        """Say nothing."""


NONE: Span = _NoSpan()


def begin(
    options: Options, request: pb.ChatRequest, within: Incoming | None = None, *, streams: bool
) -> Span:
    """Begin the span of a chat, below the one at hand, else below that of the incoming call."""
    if "opentelemetry.trace" not in sys.modules:
        return NONE
    from talkwire._tracing import ChatSpan

    return ChatSpan(options, request, within, streams=streams)


class Asking:
    """The length of a call that is answered in one message, which is put here."""

    def __init__(self, options: Options, request: pb.ChatRequest) -> None:
        self._span = begin(options, request, streams=False)
        self.headers = self._span.headers
        self.response = pb.ChatResponse()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._span.end(lambda: self.response, error)
