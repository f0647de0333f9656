"""How a call ended: with an answer, or with a refusal that is clean. Knows no engine."""

import re
from collections.abc import Awaitable
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from processes import ROOT
from support import trailers
from talkwire_proto.v1 import chat_pb2 as pb

Code = grpc.StatusCode

# What may be wrong with a request.
FAULTS = {Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.ALREADY_EXISTS}
# What no caller may read that has not written it.
INSIDE = re.compile(
    r"Error|Exception|Traceback|site-packages|\.py\b|object at 0x|<class"
    r"|instance of \w|validation errors? for|input_type=|pydantic"
    rf"|/root\b|/home/|/usr/|/tmp/|\.cache\b|{re.escape(str(ROOT))}"
)


async def ended(request: pb.ChatRequest, call: Awaitable[Any]) -> Any:
    """Return the answer to a call, or the code of its refusal."""
    try:
        return await call
    except grpc.aio.AioRpcError as failed:
        error = failed
    assert error.code() in FAULTS, f"{error.details()} to {written(request)}"
    status = status_pb2.Status.FromString(trailers(error)["grpc-status-details-bin"])
    told = b"".join(detail.value for detail in status.details).decode(errors="replace")
    assert status.details[0].Is(error_details_pb2.ErrorInfo.DESCRIPTOR), written(request)
    leaked = INSIDE.findall(f"{error.details()} {told}")
    assert [text for text in leaked if text not in written(request)] == [], written(request)
    return error.code()


def written(request: pb.ChatRequest) -> str:
    """Write a request down, so that it can be sent again: `ChatRequest.FromString`."""
    return f"{request.SerializeToString()!r}"
