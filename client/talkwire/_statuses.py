"""The one table from statuses to exceptions, and what else a failed call tells. Calls nobody."""

import asyncio
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from talkwire._answer import Answer
from talkwire._errors import (
    Cancelled,
    ConnectError,
    ContextLengthExceeded,
    Error,
    InvalidRequest,
    MediaNotFound,
    MediaUnreadable,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    RequestIdInUse,
    ServerError,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unsupported,
    Violation,
)
from talkwire._foreign import DETAILS, Status

Code = grpc.StatusCode

_BY_REASON: Mapping[str, type[Error]] = {
    "CONTEXT_LENGTH_EXCEEDED": ContextLengthExceeded,
    "MEDIA_UNREADABLE": MediaUnreadable,
    "MEDIA_NOT_FOUND": MediaNotFound,
    "REQUEST_ID_IN_USE": RequestIdInUse,
    "ADAPTER_EXISTS": Error,
    "SLOW_READER": Error,
}
_BY_CODE: Mapping[grpc.StatusCode, type[Error]] = {
    Code.INVALID_ARGUMENT: InvalidRequest,
    Code.NOT_FOUND: ModelNotFound,
    Code.FAILED_PRECONDITION: Unsupported,
    Code.UNIMPLEMENTED: Unsupported,
    Code.ALREADY_EXISTS: RequestIdInUse,
    Code.UNAUTHENTICATED: Unauthenticated,
    Code.PERMISSION_DENIED: PermissionDenied,
    Code.RESOURCE_EXHAUSTED: Overloaded,
    Code.UNAVAILABLE: Unavailable,
    Code.DEADLINE_EXCEEDED: Timeout,
    Code.CANCELLED: Cancelled,
}


_LOST = re.compile(r"RST_STREAM|http2 header with status: 50[0234]")
"""gRPC's words where a proxy lost its server."""


def from_rpc(error: Any, target: str, partial: Answer | None = None) -> Error:
    """Make the exception of a failed rpc, `grpc.RpcError` of either stack."""
    code, text = error.code(), error.details() or ""
    details = _details(error.trailing_metadata() or ())
    info = details.get("ErrorInfo")
    if not info and (code is Code.CANCELLED or is_reset(code, text)):
        code = Code.UNAVAILABLE  # what a leaving server has not begun is CANCELLED (grpc#41785)
    kind = _BY_REASON.get(info.reason if info else "", _BY_CODE.get(code, ServerError))
    if code is Code.UNAVAILABLE and not info:
        begun = error.initial_metadata() or (partial and partial.id)
        broke = "lost the connection" if begun else "no connection"
        kind, text = ConnectError, f"{broke} to {target}: {text}"
    if code is Code.RESOURCE_EXHAUSTED and not info and "larger than max" in text:
        kind = InvalidRequest  # gRPC's own words for a message over the size limit
    retry = details.get("RetryInfo")
    bad = details.get("BadRequest")
    made = kind(
        text,
        code=code,
        reason=info.reason if info else "",
        metadata=info.metadata if info else None,
        violations=[Violation(v.field, v.description) for v in bad.field_violations] if bad else (),
        retry_after=retry.retry_delay.ToNanoseconds() / 1e9 if retry else None,
        target=target,
        partial=partial,
    )
    made.__cause__ = error
    return made


def no_connection(
    target: str, seconds: float, cause: str | None, partial: Answer | None = None
) -> ConnectError:
    """Make the exception of a connection that did not come about in time."""
    text = f"no connection to {target} within {seconds:g} s" + (f": {cause}" if cause else "")
    return ConnectError(text, code=Code.UNAVAILABLE, target=target, partial=partial)


def why(error: Any) -> str | None:
    """Return gRPC's words for a lack of connections, if that is the failure."""
    return error.details() if error.code() is Code.UNAVAILABLE else None


def from_cancel(target: str, partial: Answer | None = None) -> Cancelled:
    """Make the exception of a call that this side cancelled."""
    text = "cancelled on this side"
    return Cancelled(text, code=Code.CANCELLED, target=target, partial=partial)


def taken(error: Error) -> bool:
    """Tell whether a server had let the call in that failed so."""
    cause: Any = error.__cause__
    return bool(cause and cause.initial_metadata())


def unheard(error: Error) -> bool:
    """Tell whether a leaving server ended a call so before it saw it, which gRPC does not retry."""
    cause: Any = error.__cause__
    if not isinstance(error, ConnectError) or cause is None or cause.code() is not Code.CANCELLED:
        return False
    return not (cause.initial_metadata() or cause.trailing_metadata())


def is_reset(code: grpc.StatusCode, text: str) -> bool:
    """Tell whether a proxy ended a call, because it lost the server; gRPC's words alone say so."""
    return code in (Code.INTERNAL, Code.UNKNOWN) and bool(_LOST.search(text))


def broke(error: Error) -> bool:
    """Tell whether a proxy lost the server of a call that failed so."""
    cause: Any = error.__cause__
    return isinstance(error, ConnectError) and bool(cause and _LOST.search(cause.details() or ""))


def has_no_health(error: Any) -> bool:
    """Tell whether a server that is there told of its health so, or rather did not."""
    return error.code() in (Code.UNIMPLEMENTED, Code.UNAUTHENTICATED, Code.PERMISSION_DENIED)


def found(told: Iterable[Any], target: str) -> bool:
    """Tell whether any of some servers had a call to end, as each answers or fails.

    It reads no further than the one that had.

    Raises:
        Error: None had it, and one failed, or none could be reached.

    """
    answers = []
    for one in told:
        if getattr(one, "found", False):
            return True
        answers.append(one)
    failed = [from_rpc(one, target) for one in answers if isinstance(one, grpc.RpcError)]
    for error in failed:
        if len(failed) == len(answers) or not isinstance(error, ConnectError):
            raise error
    return False


def task_is_cancelled() -> bool:
    """Tell a cancelled task from a cancelled call, which grpc.aio does not."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _details(trailers: Any) -> dict[str, Any]:
    """Unpack google.rpc.Status from the trailers: messages by name. What is unknown is left."""
    found = {}
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            with suppress(DecodeError):  # not google.rpc's: the code alone must do
                for packed in Status.FromString(value).details:
                    name = packed.type_url.rpartition("google.rpc.")[2]
                    if name in DETAILS:
                        found[name] = DETAILS[name].FromString(packed.value)
    return found
