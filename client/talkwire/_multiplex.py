"""Calls over ChatMultiplex, but for their I/O: what is sent, what came, how a call failed.

To a stream such a call is what gRPC's own would be: it begins, is read, fails and is cancelled
alike. So it is tried again alike, too, because gRPC tries only the stream that carries it.
"""

import re
from collections import deque
from collections.abc import Sequence
from random import uniform
from typing import Any, TypeAlias

import grpc

from talkwire._options import TRACE, Retry
from talkwire._statuses import from_rpc
from talkwire_proto.v1 import chat_pb2 as pb

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

REQUEST_ID = "x-request-id"
CROWDED = "CROWDED"
LARGE = 1 << 20  # bytes of a request that goes alone: if the server refuses it, others go on

_ID = re.compile("[A-Za-z0-9._:-]{1,128}")  # servers heed no other that comes as metadata
CODES = {code.value[0]: code for code in grpc.StatusCode}
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)


class Failure(grpc.RpcError):
    """How a call failed, as gRPC's own errors tell it."""

    def __init__(self, code: grpc.StatusCode, text: str, trailers: Metadata = ()) -> None:
        super().__init__(text)
        self._code = code
        self._text = text
        self._trailers = trailers
        self.id = ""

    def code(self) -> grpc.StatusCode:
        """Return gRPC's status."""
        return self._code

    def details(self) -> str:
        """Return the text of the status."""
        return self._text

    def initial_metadata(self) -> Metadata:
        """Return what came on admission."""
        return initial_metadata(self.id)

    def trailing_metadata(self) -> Any:  # of gRPC's own tuples
        """Return what came with the status."""
        return self._trailers


class Stopped(Failure):
    """This side ended the call."""

    def __init__(self) -> None:
        super().__init__(grpc.StatusCode.CANCELLED, "cancelled on this side")


class CallBase:
    """One call.

    Attributes:
        metadata: That of the stream which carries it: neither its id nor its trace, which are its
            own, and would have each call take another stream.
        trace: What it says of its trace.
        id: The request's id, if the server told it when it let the call in.
        begun: Whether the server let the call in.
        deltas: What came and was not read yet.
        ended: Whether the last event came.
        failure: How it failed, if it did.

    """

    def __init__(
        self, request: pb.ChatRequest, metadata: Sequence[tuple[str, str | bytes]], tries: "Tries"
    ) -> None:
        self.request = request
        given = dict(metadata)
        wish = str(given.pop(REQUEST_ID, ""))
        if not request.request_id and _ID.fullmatch(wish):
            self.request = pb.ChatRequest()
            self.request.CopyFrom(request)
            self.request.request_id = wish
        self.trace = {key: str(given.pop(key)) for key in TRACE if key in given}
        self.metadata = tuple(given.items())
        self.deltas: deque[pb.ChatStreamResponse] = deque()
        self.id = ""
        self.begun = False
        self.ended = False
        self.failure: Failure | None = None
        self._tries = tries
        self._tried = 1
        self._refused = False  # for good

    def admit(self, id: str) -> None:
        """Note that the server let the call in, as what."""
        self.begun = True
        self.id = id

    def take(self, delta: pb.ChatStreamResponse) -> None:
        """Take the next delta."""
        self.begun = True
        own = pb.ChatStreamResponse()  # the delta would keep its whole message, all calls' deltas
        own.CopyFrom(delta)
        self.deltas.append(own)

    def fail(self, failure: Failure | None) -> None:
        """End the call; what came of it can still be read."""
        if not self.ended:
            self.ended = True
            if failure:
                failure.id = self.id
                self.failure = failure
            else:
                self._tries.earn()

    def again(self) -> None:
        """Forget how the last try ended."""
        self._tried += 1
        self.ended, self.failure = False, None

    def pause(self, left: float | None) -> float | None:
        """Return after how many seconds to try again, of those left; None: not at all."""
        if self._refused or not self.failure or self.failure.code() not in _PASSING:
            return None
        error = from_rpc(self.failure, "")
        if error.reason == CROWDED:
            self._tried -= 1  # this was none: nobody looked at the call
            return 0.0
        seconds = self._tries.spend(self._tried, error.retry_after)
        self._refused = seconds is None or (left is not None and left <= seconds)
        return None if self._refused else seconds


class Tries:
    """How often refused calls are tried again, as gRPC does with its own.

    Each failure takes 1 and each success gives 0.1; half of it all must be left.
    """

    _MOST = 100.0

    def __init__(self, retry: Retry | None) -> None:
        self._retry = retry
        self._left = self._MOST

    def earn(self) -> None:
        """Count a success."""
        self._left = min(self._MOST, self._left + 0.1)

    def spend(self, tried: int, wish: float | None) -> float | None:
        """Count a failure; return after how many seconds to try again, as the server wishes."""
        self._left = max(0.0, self._left - 1)
        if not self._retry or tried >= self._retry.attempts or self._left <= self._MOST / 2:
            return None
        if wish is not None:
            return wish
        longest = min(self._retry.maximum, self._retry.initial * 2 ** (tried - 1))
        return uniform(0, longest)  # noqa: S311  # no secret


def initial_metadata(id: str) -> Metadata:
    """Return what the server sends on admission in a call of its own."""
    return ((REQUEST_ID, id),) if id else ()


def broken() -> Failure:
    """Say that a stream is read no more, for a fault of this side."""
    return Failure(grpc.StatusCode.INTERNAL, "the client could not read on")


def too_late() -> Failure:
    """Say that a call's deadline passed."""
    return Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")


def is_crowded(status: pb.CallStatus) -> bool:
    """Tell whether the call may find another connection better."""
    told = failure(status)
    return told is not None and from_rpc(told, "").reason == CROWDED


def failure(status: pb.CallStatus) -> Failure | None:
    """Say of a call what the server says; None if it ended well."""
    if not status.code:
        return None
    # CallStatus is google.rpc.Status, field by field.
    details = (("grpc-status-details-bin", status.SerializeToString()),)
    trailers = details if status.details else ()
    return Failure(CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.message, trailers)
