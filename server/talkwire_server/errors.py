"""How a call fails: the exceptions of the server and the one table that makes them statuses.

    CallError
    ├── InvalidRequest            INVALID_ARGUMENT, every bad field at once
    │   └── ContextLengthExceeded
    ├── ModelNotFound             NOT_FOUND
    ├── UnsupportedFeature        FAILED_PRECONDITION
    ├── Unimplemented             UNIMPLEMENTED, a whole method
    ├── RequestIdInUse            ALREADY_EXISTS
    ├── QueueFull                 RESOURCE_EXHAUSTED, with a delay after which to try again
    ├── ModelLoading              UNAVAILABLE, the same
    ├── ShuttingDown              UNAVAILABLE, the same
    ├── EngineDead                UNAVAILABLE
    └── EngineFailure             INTERNAL

Texts are for the caller's eyes. No path, stack or exception text of anything else gets out, but
for vLLM's validation errors, which are written for callers.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from talkwire_proto.v1 import chat_pb2 as pb

DOMAIN = "talkwire"
RETRY_AFTER = 1  # seconds
MOST_FAULTS = 32  # named in one status: gRPC takes 16 KiB of trailers

log = logging.getLogger("talkwire")


@dataclass(frozen=True, slots=True)
class Violation:
    """One fault of a request: the field's exact path and what is wrong with it."""

    field: str
    description: str
    reason: str = "INVALID"


def short(text: str, most: int = 96) -> str:
    """Cut what a caller wrote to a length that fits into a status."""
    return text if len(text) <= most else text[: most - 1] + "…"


class CallError(Exception):
    """A call that ends with a status other than OK."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata

    def details(self) -> Iterable[Message]:
        """google.rpc details beside the ErrorInfo that every status has."""
        return ()


class InvalidRequest(CallError):
    """The request breaks the contract."""

    def __init__(self, violations: Sequence[Violation], **metadata: str) -> None:
        self.violations = violations[:MOST_FAULTS]
        texts = [f"{short(v.field)}: {short(v.description)}" for v in self.violations]
        if more := len(violations) - len(self.violations):
            texts.append(f"and {more} more")
        super().__init__("; ".join(texts), **metadata)

    def details(self) -> Iterable[Message]:
        """Name every bad field."""
        yield error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=short(v.field),
                    description=short(v.description),
                    reason=v.reason,  # type: ignore[call-arg]  # newer than its stubs
                )
                for v in self.violations
            ]
        )


class ContextLengthExceeded(InvalidRequest):
    """The prompt leaves no room for an answer."""

    def __init__(self, prompt_tokens: int, max_context_tokens: int) -> None:
        text = f"{prompt_tokens} prompt tokens leave no room in a context of {max_context_tokens}"
        super().__init__(
            [Violation("messages", text, "OUT_OF_RANGE")],
            prompt_tokens=str(prompt_tokens),
            max_context_tokens=str(max_context_tokens),
        )


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
        if more := len(features) - len(self.features):
            self.features.append(f"and {more} more")
        super().__init__(f"not supported by this server: {', '.join(self.features)}")

    def details(self) -> Iterable[Message]:
        """Name every feature that is lacking."""
        yield error_details_pb2.PreconditionFailure(
            violations=[
                error_details_pb2.PreconditionFailure.Violation(
                    type="UNSUPPORTED_FEATURE", subject=f, description=f"{f} is not supported"
                )
                for f in self.features
            ]
        )


class Unimplemented(CallError):
    """A method of the contract that this server does not have yet."""

    def __init__(self) -> None:
        super().__init__("this server does not implement the method")


class RequestIdInUse(CallError):
    """A running call has this id."""

    def __init__(self, request_id: str) -> None:
        super().__init__(f"a call with the id {request_id!r} is running")


class _Later(CallError):
    def details(self) -> Iterable[Message]:
        """Say when to try again."""
        yield error_details_pb2.RetryInfo(
            retry_delay=Duration(seconds=RETRY_AFTER),
        )


class QueueFull(_Later):
    """Too many wait already."""

    def __init__(self) -> None:
        super().__init__("too many requests are waiting")


class ModelLoading(_Later):
    """The model is not ready yet."""

    def __init__(self) -> None:
        super().__init__("the model is loading")


class ShuttingDown(_Later):
    """The server is leaving."""

    def __init__(self) -> None:
        super().__init__("the server is shutting down")


class EngineDead(CallError):
    """The engine died; the whole replica is leaving."""

    def __init__(self) -> None:
        super().__init__("the engine died")


class EngineFailure(CallError):
    """This request failed inside the engine."""

    def __init__(self) -> None:
        super().__init__("the request failed; the server's log has the cause under its id")


_STATUSES: Mapping[type[CallError], tuple[grpc.StatusCode, pb.ErrorReason.ValueType]] = {
    InvalidRequest: (grpc.StatusCode.INVALID_ARGUMENT, pb.ERROR_REASON_INVALID_FIELD),
    ContextLengthExceeded: (
        grpc.StatusCode.INVALID_ARGUMENT,
        pb.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
    ),
    ModelNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_MODEL_NOT_FOUND),
    UnsupportedFeature: (
        grpc.StatusCode.FAILED_PRECONDITION,
        pb.ERROR_REASON_UNSUPPORTED_FEATURE,
    ),
    Unimplemented: (grpc.StatusCode.UNIMPLEMENTED, pb.ERROR_REASON_UNSUPPORTED_FEATURE),
    RequestIdInUse: (grpc.StatusCode.ALREADY_EXISTS, pb.ERROR_REASON_REQUEST_ID_IN_USE),
    QueueFull: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_QUEUE_FULL),
    ModelLoading: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_MODEL_LOADING),
    ShuttingDown: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_SHUTTING_DOWN),
    EngineDead: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_ENGINE_DEAD),
    EngineFailure: (grpc.StatusCode.INTERNAL, pb.ERROR_REASON_ENGINE_FAILURE),
}


@asynccontextmanager
async def statuses(
    context: grpc.aio.ServicerContext[Any, Any], request_id: str = ""
) -> AsyncIterator[None]:
    """End the call with the status of whatever exception leaves the block.

    Anything but a `CallError` is logged with its stack and answered as `EngineFailure`.
    Cancellation passes through untouched.
    """
    try:
        yield
    except CallError as error:
        await _abort(context, error, request_id)
    except Exception:
        log.exception("request %s failed", request_id)
        await _abort(context, EngineFailure(), request_id)


async def _abort(
    context: grpc.aio.ServicerContext[Any, Any], error: CallError, request_id: str
) -> None:
    code, reason = _STATUSES[type(error)]
    info = error_details_pb2.ErrorInfo(
        reason=pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_"),
        domain=DOMAIN,
        metadata={**error.metadata, **({"request_id": request_id} if request_id else {})},
    )
    status = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in (info, *error.details()):
        status.details.add().Pack(detail)
    trailers: list[tuple[str, str | bytes]] = [
        ("grpc-status-details-bin", status.SerializeToString())
    ]
    if isinstance(error, _Later):
        trailers.append(("grpc-retry-pushback-ms", str(RETRY_AFTER * 1000)))
    await context.abort(code, error.message, trailing_metadata=tuple(trailers))
