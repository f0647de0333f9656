"""The one table that makes statuses of the server's exceptions."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import grpc
from google.rpc import error_details_pb2, status_pb2

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import (
    AdapterExists,
    CallError,
    ContextLengthExceeded,
    Crowded,
    DeadlineUnreachable,
    EngineDead,
    EngineFailure,
    InvalidRequest,
    Later,
    MediaNotFound,
    MediaUnreadable,
    ModelLoading,
    ModelNotFound,
    PermissionDenied,
    QueueFull,
    QuotaExceeded,
    RequestIdInUse,
    ShuttingDown,
    SlowReader,
    Unauthenticated,
    UnsupportedFeature,
)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

DOMAIN = "talkwire"

log = logging.getLogger("talkwire")

STATUSES: Mapping[type[CallError], tuple[grpc.StatusCode, pb.ErrorReason.ValueType]] = {
    InvalidRequest: (grpc.StatusCode.INVALID_ARGUMENT, pb.ERROR_REASON_INVALID_FIELD),
    ContextLengthExceeded: (
        grpc.StatusCode.INVALID_ARGUMENT,
        pb.ERROR_REASON_CONTEXT_LENGTH_EXCEEDED,
    ),
    MediaUnreadable: (grpc.StatusCode.INVALID_ARGUMENT, pb.ERROR_REASON_MEDIA_UNREADABLE),
    MediaNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_MEDIA_NOT_FOUND),
    ModelNotFound: (grpc.StatusCode.NOT_FOUND, pb.ERROR_REASON_MODEL_NOT_FOUND),
    UnsupportedFeature: (
        grpc.StatusCode.FAILED_PRECONDITION,
        pb.ERROR_REASON_UNSUPPORTED_FEATURE,
    ),
    RequestIdInUse: (grpc.StatusCode.ALREADY_EXISTS, pb.ERROR_REASON_REQUEST_ID_IN_USE),
    AdapterExists: (grpc.StatusCode.ALREADY_EXISTS, pb.ERROR_REASON_ADAPTER_EXISTS),
    Unauthenticated: (grpc.StatusCode.UNAUTHENTICATED, pb.ERROR_REASON_TOKEN_INVALID),
    PermissionDenied: (grpc.StatusCode.PERMISSION_DENIED, pb.ERROR_REASON_MODEL_FORBIDDEN),
    QueueFull: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_QUEUE_FULL),
    QuotaExceeded: (grpc.StatusCode.RESOURCE_EXHAUSTED, pb.ERROR_REASON_QUOTA_EXCEEDED),
    DeadlineUnreachable: (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        pb.ERROR_REASON_DEADLINE_UNREACHABLE,
    ),
    ModelLoading: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_MODEL_LOADING),
    ShuttingDown: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_SHUTTING_DOWN),
    SlowReader: (grpc.StatusCode.ABORTED, pb.ERROR_REASON_SLOW_READER),
    EngineDead: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_ENGINE_DEAD),
    Crowded: (grpc.StatusCode.UNAVAILABLE, pb.ERROR_REASON_CROWDED),
    EngineFailure: (grpc.StatusCode.INTERNAL, pb.ERROR_REASON_ENGINE_FAILURE),
}


@asynccontextmanager
async def statuses(context: Context, request_id: str = "") -> AsyncIterator[None]:
    """End the call with the status of whatever exception leaves the block.

    Cancellation passes through untouched.
    """
    try:
        yield
    except Exception as error:
        await abort(context, call_error(error, request_id), request_id)


def call_error(error: Exception, request_id: str) -> CallError:
    """Take a `CallError` as it is; log anything else with its stack, and call it EngineFailure."""
    if isinstance(error, CallError):
        return error
    log.error("request %s failed", request_id, exc_info=error)
    return EngineFailure()


def status(error: CallError, request_id: str) -> status_pb2.Status:
    """Say how a call ended, with details."""
    code, reason = STATUSES[type(error)]
    info = error_details_pb2.ErrorInfo(
        reason=pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_"),
        domain=DOMAIN,
        metadata={**error.metadata, **({"request_id": request_id} if request_id else {})},
    )
    made = status_pb2.Status(code=code.value[0], message=error.message)
    for detail in (info, *error.details()):
        made.details.add().Pack(detail)
    return made


async def abort(context: Context, error: CallError, request_id: str) -> None:
    """End a call with the status of an exception. Always raises, what ends the handler."""
    details = status(error, request_id).SerializeToString()
    trailers: list[tuple[str, str | bytes]] = [("grpc-status-details-bin", details)]
    if isinstance(error, Later):
        left = context.time_remaining()
        in_vain = left is not None and left <= error.retry_after
        # gRPC would wait past the deadline, and say no more than that it is over; after 0 ms it
        # hangs for ever (grpc#41036).
        pushback = -1 if in_vain else max(1, round(error.retry_after * 1000))
        trailers.append(("grpc-retry-pushback-ms", str(pushback)))
    await context.abort(STATUSES[type(error)][0], error.message, trailing_metadata=tuple(trailers))
