"""A span for each chat: the one module of the server that imports OpenTelemetry.

Import it where traces are wanted, once nothing forks any more: what exports them has a thread. The
provider is this server's own; that of the process is vLLM's.
"""

from collections.abc import Iterable
from importlib.metadata import version
from time import time_ns
from uuid import uuid4

from grpc import StatusCode
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, format_span_id, format_trace_id
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from talkwire import _conventions
from talkwire_server.engine import Call, StartError
from talkwire_server.journal import Entry
from talkwire_server.settings.tracing import found

_W3C = TraceContextTextMapPropagator()

# What a server answers for, by the conventions for gRPC; all else is its caller's affair.
_ERRORS = {
    StatusCode.UNKNOWN,
    StatusCode.DEADLINE_EXCEEDED,
    StatusCode.UNIMPLEMENTED,
    StatusCode.INTERNAL,
    StatusCode.UNAVAILABLE,
    StatusCode.DATA_LOSS,
}


class Tracing:
    """See `talkwire_server.journal.Reader` for the contract.

    Args:
        exporters: OpenTelemetry's names of them; their own variables say all else.

    Raises:
        StartError: One of these variables has no meaning.

    """

    def __init__(self, exporters: Iterable[str]) -> None:
        try:
            provider = _provider(exporters)
        except Exception as error:
            raise StartError(f"OpenTelemetry cannot export traces: {error}") from error
        self._provider = provider
        self._tracer = provider.get_tracer("talkwire_server", version("talkwire"))
        self._spans: dict[Entry, tuple[Span, int]] = {}  # and when they began

    def begin(self, entry: Entry) -> None:
        """Begin the span of a chat, below that of its caller if there is one."""
        began = time_ns()
        span = self._tracer.start_span(
            _conventions.OPERATION,
            _W3C.extract(entry.trace, Context()),
            SpanKind.SERVER,
            _conventions.called(entry.rpc),
            start_time=began,
        )
        self._spans[entry] = span, began
        headers: dict[str, str] = {}
        _W3C.inject(headers, set_span_in_context(span, Context()))
        entry.trace = headers
        entry.trace_id = format_trace_id(span.get_span_context().trace_id)
        entry.span_id = format_span_id(span.get_span_context().span_id)

    def close(self) -> None:
        """Send the last spans; where a process ends as usual OpenTelemetry does that itself."""
        self._provider.shutdown()

    def end(self, entry: Entry) -> None:
        """End it, and say what became of the chat."""
        span, began = self._spans.pop(entry)
        if span.is_recording():  # else it is not among those that are sampled
            if entry.call:
                _say(span, entry.call, began - _nanoseconds(entry.arrival))
            is_error = entry.code in _ERRORS
            span.set_attributes(
                _conventions.ended(entry.code, entry.reason, entry.id, is_error=is_error)
            )
            if is_error:
                span.set_status(SpanStatus.ERROR)
        span.end(began + _nanoseconds(entry.ended - entry.arrival))


def _say(span: Span, call: Call, epoch: int) -> None:
    """Say of a call that was let in what is known; `epoch` is when its clock was at 0."""
    span.update_name(f"{_conventions.OPERATION} {call.model}")
    span.set_attributes(_conventions.asked(call.request, call.model))
    if call.places:
        span.add_event("admitted", timestamp=epoch + _nanoseconds(call.started))
    if call.last is None:
        if call.begun:
            span.add_event("first_token", timestamp=epoch + _nanoseconds(call.begun))
        return
    if first := call.last.timing.first_token.ToNanoseconds():
        span.add_event("first_token", timestamp=epoch + _nanoseconds(call.arrival) + first)
    # Of several answers the engine's last word is about one alone.
    reasons = [] if call.request.n > 1 else [call.last.finish_reason]
    span.set_attributes(_conventions.answered(call.model, call.last.usage, reasons))


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def _provider(exporters: Iterable[str]) -> TracerProvider:
    """Make what OpenTelemetry's variables say: sampler, limits, batches, endpoints."""
    own = {
        "service.name": "talkwire",
        "service.version": version("talkwire"),
        "service.instance.id": str(uuid4()),  # of each frontend
    }
    said = OTELResourceDetector().detect().attributes
    provider = TracerProvider(resource=Resource.create({**own, **said}))
    for name in exporters:
        if entry := found(name):
            provider.add_span_processor(BatchSpanProcessor(entry.load()()))
    return provider
