"""The span of a chat, by OpenTelemetry as the program has set it up.

The one module of the client that imports it. Import it where it is needed, not before.
"""

import re
from collections.abc import Callable
from importlib.metadata import version

import grpc
from opentelemetry.trace import SpanKind, StatusCode, get_current_span, get_tracer
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from talkwire import _conventions
from talkwire._errors import Error
from talkwire._multiplex import LARGE
from talkwire._options import Incoming, Options, trace_of
from talkwire_proto.v1 import chat_pb2 as pb

_TRACER = get_tracer("talkwire", version("talkwire"))  # that of a provider which is set later, too
_W3C = TraceContextTextMapPropagator()
_ONE = re.compile(r"(?:dns://[^/]*/|dns:|ipv4:|ipv6:)?(\[[^]]+\]|[^][:/,]+):([0-9]+)")  # a target


class ChatSpan:
    """See `talkwire._spans.Span` for the contract. Without a provider it but hands the trace on."""

    def __init__(
        self, options: Options, request: pb.ChatRequest, within: Incoming | None, *, streams: bool
    ) -> None:
        above = None  # the context at hand
        if within and not get_current_span().get_span_context().is_valid:
            above = _W3C.extract(trace_of(within))
        self._span = _TRACER.start_span(
            f"{_conventions.OPERATION} {request.model}".rstrip(),
            above,
            SpanKind.CLIENT,
            {**_conventions.called(_rpc(options, request, streams=streams)), **_where(options)},
        )
        self.headers: dict[str, str] = {}
        _W3C.inject(self.headers, set_span_in_context(self._span))
        if self._span.is_recording():
            self._span.set_attributes(_conventions.asked(request, request.model))

    def end(self, answer: Callable[[], pb.ChatResponse], error: BaseException | None) -> None:
        """Say how it ended, if nobody did."""
        if not self._span.is_recording():
            return
        had = answer()
        if had.HasField("usage"):
            reasons = [had.finish_reason, *(other.finish_reason for other in had.alternatives)]
            self._span.set_attributes(_conventions.answered(had.model, had.usage, reasons))
        code, reason = _status(error)
        if isinstance(error, GeneratorExit) and had.HasField("usage"):
            code = grpc.StatusCode.OK  # it was left when all had been read
        is_error = code is not grpc.StatusCode.OK
        self._span.set_attributes(_conventions.ended(code, reason, had.id, is_error=is_error))
        if is_error:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


def _status(error: BaseException | None) -> tuple[grpc.StatusCode, str]:
    if error is None:
        return grpc.StatusCode.OK, ""
    if isinstance(error, Error):
        return error.code, error.reason
    # What is no Exception ends the wait for the answer: Ctrl-C, the cancel of a task.
    unknown = isinstance(error, Exception)
    return grpc.StatusCode.UNKNOWN if unknown else grpc.StatusCode.CANCELLED, ""


def _rpc(options: Options, request: pb.ChatRequest, *, streams: bool) -> str:
    if not streams:
        return "Chat"
    return "ChatMultiplex" if options.multiplex and request.ByteSize() <= LARGE else "ChatStream"


def _where(options: Options) -> _conventions.Attributes:
    """Say where the server is: a name and a port, else all of the target."""
    if found := _ONE.fullmatch(options.target):
        return {"server.address": found[1].strip("[]"), "server.port": int(found[2])}
    return {"server.address": options.target.removeprefix("unix:").removeprefix("//")}
