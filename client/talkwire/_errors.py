"""How a call fails, as the caller sees it: exceptions. `_statuses.py` makes them of statuses.

Error:
├── InvalidRequest              the request breaks the contract; see .violations
│   ├── ContextLengthExceeded
│   ├── MediaUnreadable
│   └── MediaNotFound           send the bytes again
├── ModelNotFound               see .available
├── Unsupported                 this server or model lacks it
├── RequestIdInUse
├── Unauthenticated
├── PermissionDenied
├── Overloaded                  see .retry_after
├── Unavailable                 loading, leaving or dead; see .retry_after
│   └── ConnectError            no connection to .target
├── Timeout                     the deadline passed (a TimeoutError, too)
├── Cancelled                   this side cancelled it
└── ServerError                 the server's fault

"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc

from talkwire._answer import Answer

OUTSIDE_WITH = (
    "a stream is read inside its block, {} client.stream(...) as stream: "
    "leaving the block is what stops the answer on the server"
)


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a request: the field's path and what is wrong with it."""

    field: str
    description: str


class Error(Exception):
    """A call failed.

    Attributes:
        message: What happened, in one line.
        code: gRPC's status.
        reason: The server's reason, a name of `talkwire.v1.ErrorReason` without its prefix;
            empty where the server gave none.
        metadata: The server's variables of the message.
        request_id: The request's id, to find it in the server's log; may be empty.
        retry_after: Seconds after which the server asks to try again, if it does.
        partial: The answer as far as it came, if it was streamed or goes on with another.

    """

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_after: float | None = None,
        target: str = "",
        partial: Answer | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after
        self.target = target
        self.partial = partial

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.metadata.get("request_id", "")


class InvalidRequest(Error):
    """The request breaks the contract; `violations` names every fault."""


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer."""

    @property
    def prompt_tokens(self) -> int:
        """How long the prompt is."""
        return int(self.metadata.get("prompt_tokens", 0))

    @property
    def max_context_tokens(self) -> int:
        """How much the model can hold, prompt and answer together."""
        return int(self.metadata.get("max_context_tokens", 0))


class MediaUnreadable(InvalidRequest):
    """An image, sound or film cannot be had or read."""


class MediaNotFound(InvalidRequest):
    """The server keeps no bytes under a cache id (any more): send them again."""


class ModelNotFound(Error):
    """The server has no such model."""

    @property
    def available(self) -> list[str]:
        """The models that it has."""
        names = self.metadata.get("available", "")
        return names.split(", ") if names else []


class Unsupported(Error):
    """This server or model lacks what the request asks for."""


class RequestIdInUse(Error):
    """A running call has the same request id."""


class Unauthenticated(Error):
    """The token is missing or not valid."""


class PermissionDenied(Error):
    """Not for this caller."""


class Overloaded(Error):
    """The server has too much to do."""


class Unavailable(Error):
    """The server cannot answer now: it is loading, leaving or dead."""


class ConnectError(Unavailable):
    """No connection to the server could be had, or it broke."""


class Timeout(Error, TimeoutError):
    """The deadline passed."""


class Cancelled(Error):
    """The call was cancelled on this side."""


class ServerError(Error):
    """The server failed at this request."""
