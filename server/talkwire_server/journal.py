"""What becomes of each chat: written down once, at its end, for log, metrics and traces alike.

Knows none of those who read it, no sockets, and no engine. A token costs nothing here.
"""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol

import grpc

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.errors import CallError, EngineFailure
from talkwire_server.statuses import STATUSES
from talkwire_server.trace_context import TraceContext

SLACK = 0.1  # seconds by which a caller's clock may find a deadline over before ours does


@dataclass(slots=True, eq=False)
class Entry:
    """One chat, whatever rpc carries it. Times are in `time.monotonic` seconds.

    Attributes:
        id: The request's id.
        rpc: Name of the method: `Chat`, `ChatStream` or `ChatMultiplex`.
        caller: Name of whoever asks.
        trace: What the caller says of its trace; once there is a span, what that says.
        trace_id: Of the span of the call, in hexadecimal digits, if it has one.
        span_id: The same.
        call: What was let in; None while it is not.
        left: When its answer was cut short, whatever the cause; 0 if it was not.
        ended: When the engine was done with it, too; 0 before.
        code: Status of the call, as its caller sees it unless it has left.
        reason: ErrorReason of the contract, without prefix; empty with a code of gRPC's own.

    """

    id: str
    rpc: str
    caller: str
    trace: TraceContext
    trace_id: str = ""
    span_id: str = ""
    arrival: float = field(default_factory=monotonic)
    call: Call | None = None
    left: float = 0.0
    ended: float = 0.0
    code: grpc.StatusCode = grpc.StatusCode.OK
    reason: str = ""

    @property
    def finish_reason(self) -> str:
        """How the answer ended, as the contract names it, without prefix; empty if it did not."""
        if not (self.call and self.call.last):
            return ""
        return pb.FinishReason.Name(self.call.last.finish_reason).removeprefix("FINISH_REASON_")

    @contextmanager
    def answering(self, call: Call) -> Iterator[None]:
        """Be let in for the length of the block; see when it is cut short."""
        self.call = call
        call.trace = self.trace
        try:
            yield
        except BaseException:
            self.left = monotonic()
            raise


class Reader(Protocol):
    """Who wants to know of chats. Must not raise."""

    def begin(self, entry: Entry) -> None:
        """Hear of a chat that came in."""
        ...

    def end(self, entry: Entry) -> None:
        """Hear what became of it."""
        ...

    def close(self) -> None:
        """Let go of what is kept yet; may take seconds."""
        ...


class Journal:
    """Tells its readers of all chats."""

    def __init__(self, readers: Sequence[Reader] = ()) -> None:
        self._readers = readers

    def close(self) -> None:
        """Have the readers let go of what they keep: for a process whose end they will not see."""
        for reader in self._readers:
            reader.close()

    @contextmanager
    def entry(
        self, rpc: str, id: str, caller: str, trace: TraceContext, left: float | None
    ) -> Iterator[Entry]:
        """Write down what becomes of a chat in the block. `left` as in `Admission.enter`."""
        entry = Entry(id, rpc, caller, trace)
        for reader in self._readers:
            reader.begin(entry)
        try:
            yield entry
        except asyncio.CancelledError as cut:
            is_late = left is not None and monotonic() - entry.arrival > left - min(SLACK, left / 4)
            _cut(entry, cut, is_late=is_late)
            raise
        except Exception as error:
            _fail(entry, error)
            raise
        finally:
            entry.ended = monotonic()
            for reader in self._readers:
                reader.end(entry)


def _fail(entry: Entry, error: Exception) -> None:
    kind = type(error) if isinstance(error, CallError) else EngineFailure
    entry.code, reason = STATUSES[kind]
    entry.reason = pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")


def _cut(entry: Entry, cut: asyncio.CancelledError, *, is_late: bool) -> None:
    """Tell who cut the call: this server says so where it cancels (`OpenCall.cut`)."""
    if cut.args and isinstance(cut.args[0], CallError):
        _fail(entry, cut.args[0])
    else:
        code = grpc.StatusCode
        entry.code = code.DEADLINE_EXCEEDED if is_late else code.CANCELLED
