"""How a call fails: the exceptions of the server. `statuses.py` makes statuses of them.

    CallError
    ├── InvalidRequest            INVALID_ARGUMENT, every bad field at once
    │   ├── ContextLengthExceeded
    │   ├── MediaUnreadable
    │   └── MediaNotFound         NOT_FOUND
    ├── ModelNotFound             NOT_FOUND
    ├── UnsupportedFeature        FAILED_PRECONDITION
    ├── RequestIdInUse            ALREADY_EXISTS
    ├── AdapterExists             ALREADY_EXISTS
    ├── Unauthenticated           UNAUTHENTICATED
    ├── PermissionDenied          PERMISSION_DENIED
    ├── QueueFull                 RESOURCE_EXHAUSTED, with a delay after which to try again
    ├── QuotaExceeded             RESOURCE_EXHAUSTED, the same
    ├── DeadlineUnreachable       DEADLINE_EXCEEDED
    ├── ModelLoading              UNAVAILABLE, the same
    ├── ShuttingDown              UNAVAILABLE, the same
    ├── SlowReader                ABORTED
    ├── EngineDead                UNAVAILABLE
    ├── Crowded                   UNAVAILABLE
    └── EngineFailure             INTERNAL

Texts are for the caller's eyes. No path, stack or exception text of anything else gets out, but
for vLLM's validation errors, which are written for callers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from string import printable
from typing import Any
from urllib.parse import quote

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2

RETRY_AFTER = 1  # seconds
# Of what a status names. gRPC's clients refuse trailers over 8 KiB, at random, and over 16 KiB,
# always; all but ASCII is percent-encoded there, and everything is there three times.
MOST_FAULTS = 32
MOST_BYTES = 1800
MOST_FOUND = 1000  # nobody reads on, and looking for them takes its time


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a request: the field's exact path and what is wrong with it."""

    field: str
    description: str
    reason: str = "INVALID"


def short(text: str, most: int = 96) -> str:
    """Cut what a caller wrote to a length that fits into a status."""
    sizes = [*accumulate(_size(character) for character in text[:most])]
    if len(text) <= most and (not sizes or sizes[-1] <= most):
        return text
    return text[: sum(size < most for size in sizes)] + "…"


def fitting(texts: Sequence[str]) -> int:
    """Count how many texts, one at least, one status can name."""
    sizes = accumulate(_size(text) for text in texts[:MOST_FAULTS])
    return max(1, sum(size <= MOST_BYTES for size in sizes))


def more(found: Sequence[object], named: Sequence[object]) -> list[str]:
    """Say how many faults were found beside those that are named."""
    count = len(found) - len(named)
    if len(found) >= MOST_FOUND:
        return ["and more"]
    return [f"and {count} more"] if count else []


def _size(text: str) -> int:
    return len(quote(text, safe=printable))


class CallError(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata

    def details(self) -> Iterable[Message]:
        """google.rpc details beside the ErrorInfo that every status has."""
        return ()

    def __reduce__(self) -> tuple[Any, ...]:
        """Be what it is in another process, too, without being made anew of a text alone."""
        return type(self).__new__, (type(self), *self.args), self.__dict__


class InvalidRequest(CallError):
    """The request breaks the contract."""

    def __init__(self, violations: Sequence[Violation], **metadata: str) -> None:
        self._most = max(96, MOST_BYTES // len(violations))  # of one description
        texts = [f"{short(v.field)}: {self._line(v)}" for v in violations[:MOST_FAULTS]]
        self.violations = violations[: fitting(texts)]
        del texts[len(self.violations) :]
        texts += more(violations, self.violations)
        super().__init__("; ".join(texts), **metadata)

    def details(self) -> Iterable[Message]:
        """Name every bad field."""
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=short(v.field),
                    description=self._line(v),
                    reason=v.reason,  # type: ignore[call-arg]  # newer than its stubs
                )
                for v in self.violations
            ]
        )

    def _line(self, violation: Violation) -> str:
        return short(" ".join(violation.description.split()), self._most)


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer."""

    def __init__(self, prompt_tokens: int, max_context_tokens: int) -> None:
        text = f"{prompt_tokens} prompt tokens leave no room in a context of {max_context_tokens}"
        super().__init__(
            [Violation("messages", text, "OUT_OF_RANGE")],
            prompt_tokens=str(prompt_tokens),
            max_context_tokens=str(max_context_tokens),
        )


class MediaUnreadable(InvalidRequest):
    """An image, sound or film cannot be had or read; the violations name which."""


class MediaNotFound(InvalidRequest):
    """No bytes are kept under a `cache_id` (any more); the violations name which."""


class ModelNotFound(CallError):
    """No such model here."""

    def __init__(self, model: str, available: Sequence[str]) -> None:
        known = short(", ".join(available), 1024)
        self.model = short(model)
        super().__init__(f"no model {self.model!r} here; there is: {known}", available=known)

    def details(self) -> Iterable[Message]:
        """Name the model that was asked for."""
        yield error_details_pb2.ResourceInfo(
            resource_type="talkwire.v1.Model", resource_name=self.model
        )


class UnsupportedFeature(CallError):
    """The request uses what this server or model lacks."""

    def __init__(self, features: Sequence[str]) -> None:
        self.features = [short(feature) for feature in features[:MOST_FAULTS]]
        del self.features[fitting(self.features) :]
        self.features += more(features, self.features)
        super().__init__(f"not supported by this server: {', '.join(self.features)}")

    def details(self) -> Iterable[Message]:
        """Name every feature that is lacking."""
        yield error_details_pb2.PreconditionFailure(
            violations=[
                error_details_pb2.PreconditionFailure.Violation(
                    type="UNSUPPORTED_FEATURE", subject=f, description="is not supported"
                )
                for f in self.features
            ]
        )


class RequestIdInUse(CallError):
    """A running call has this id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"a call with the id {request_id!r} is running")


class AdapterExists(CallError):
    """Another model has the adapter's id."""

    def __init__(self, model: str) -> None:
        super().__init__(f"there is a model {short(model)!r} already")


class Unauthenticated(CallError):
    """Credentials are missing or not valid. `why` is for the log alone: it would help a thief."""

    def __init__(self, why: str) -> None:
        super().__init__("a valid token is needed, as metadata authorization: Bearer TOKEN")
        self.why = why


class PermissionDenied(CallError):
    """The model is not for this caller."""

    def __init__(self, model: str) -> None:
        super().__init__(f"the model {short(model)!r} is not for this caller")


class Later(CallError):
    """A refusal that another try may not meet, `retry_after` seconds from now."""

    def __init__(self, message: str, retry_after: float = RETRY_AFTER) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def details(self) -> Iterable[Message]:
        """Say when to try again."""
        delay = Duration()
        delay.FromMilliseconds(round(self.retry_after * 1000))
        yield error_details_pb2.RetryInfo(retry_delay=delay)


class QueueFull(Later):
    """Too many wait already."""

    def __init__(self, retry_after: float = RETRY_AFTER) -> None:
        super().__init__("too many requests are waiting", retry_after)


class QuotaExceeded(Later):
    """The caller has what it may have. `limit` says what that is."""

    def __init__(self, caller: str, limit: str, retry_after: float) -> None:
        super().__init__(f"no more for {short(caller)!r} than {limit}", retry_after)
        self._failure = error_details_pb2.QuotaFailure()
        self._failure.violations.add(subject=f"caller:{short(caller)}", description=limit)

    def details(self) -> Iterable[Message]:
        """Say whose quota it is, and when to try again."""
        yield self._failure
        yield from super().details()


class DeadlineUnreachable(CallError):
    """The call's time would be over before its turn; `estimate` is the wait for it, in seconds."""

    def __init__(self, left: float, estimate: float) -> None:
        text = f"{max(0, left):.3f} s are left, and the wait is about {estimate:.3f} s"
        super().__init__(text, estimate=f"{estimate:.3f}")


class ModelLoading(Later):
    """The model is not ready yet."""

    def __init__(self) -> None:
        super().__init__("the model is loading")


class ShuttingDown(Later):
    """The server is leaving."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class SlowReader(CallError):
    """The caller left messages of its stream unread for too long."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the caller took nothing for {seconds:g} s")


class EngineDead(CallError):
    """The engine died; the whole replica is leaving."""

    def __init__(self) -> None:
        super().__init__("the engine died")


class Crowded(CallError):
    """Of several processes that of this connection has more streams than another."""

    def __init__(self) -> None:
        super().__init__("another process of this server has fewer streams: connect anew")


class EngineFailure(CallError):
    """This request failed inside the engine."""

    def __init__(self) -> None:
        super().__init__("the request failed; the server's log has the cause under its id")
