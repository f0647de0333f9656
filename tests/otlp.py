"""A receiver of traces: OpenTelemetry's own protocol over gRPC, and what came of it."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import grpc
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.util._once import Once

add_to_server: Any = service_grpc.add_TraceServiceServicer_to_server  # has no types
Kind = trace_pb2.Span.SpanKind
Status = trace_pb2.Status


@dataclass(frozen=True)
class Received:
    """A span as it came over the wire. Times are in seconds since 1970."""

    proto: trace_pb2.Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return self.proto.name

    @property
    def kind(self) -> str:
        return Kind.Name(self.proto.kind).removeprefix("SPAN_KIND_")

    @property
    def trace_id(self) -> str:
        return self.proto.trace_id.hex()

    @property
    def span_id(self) -> str:
        return self.proto.span_id.hex()

    @property
    def parent_id(self) -> str:
        return self.proto.parent_span_id.hex()

    @property
    def status(self) -> str:
        return Status.StatusCode.Name(self.proto.status.code).removeprefix("STATUS_CODE_")

    @property
    def attributes(self) -> dict[str, Any]:
        return values(self.proto.attributes)

    @property
    def events(self) -> dict[str, float]:
        """When which event was."""
        return {event.name: event.time_unix_nano / 1e9 for event in self.proto.events}

    @property
    def began(self) -> float:
        return self.proto.start_time_unix_nano / 1e9

    @property
    def ended(self) -> float:
        return self.proto.end_time_unix_nano / 1e9


def values(pairs: Any) -> dict[str, Any]:
    """Return attributes as what they are."""
    return {pair.key: value(pair.value) for pair in pairs}


def value(of: Any) -> Any:
    kind = of.WhichOneof("value")
    if kind == "array_value":
        return [value(one) for one in of.array_value.values]
    return getattr(of, kind)


class Collector(service_grpc.TraceServiceServicer):
    """Keeps the spans that come.

    Attributes:
        target: Where it is, as OTEL_EXPORTER_OTLP_ENDPOINT wants it.

    """

    def __init__(self) -> None:
        self._spans: list[Received] = []
        self._came = threading.Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        add_to_server(self, self._server)
        self.target = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def Export(self, request: Any, context: Any) -> Any:
        """Take spans."""
        with self._came:
            for resource in request.resource_spans:
                said = values(resource.resource.attributes)
                for scope in resource.scope_spans:
                    self._spans += [Received(span, said) for span in scope.spans]
            self._came.notify_all()
        return service.ExportTraceServiceResponse()

    @contextmanager
    def over_http(self) -> Iterator[str]:
        """Take spans over HTTP, too, for the length of the block; yield the endpoint."""
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.path == "/v1/traces"
                body = self.rfile.read(int(self.headers["Content-Length"]))
                answer = collector.Export(service.ExportTraceServiceRequest.FromString(body), None)
                self.send_response(200)
                self.end_headers()
                self.wfile.write(answer.SerializeToString())

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever).start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()

    def spans(self, count: int, wanted: Callable[[Received], bool] = bool) -> list[Received]:
        """Wait for so many spans; return all that came, in the order of their beginning."""
        end = monotonic() + 60
        with self._came:
            while len(found := [span for span in self._spans if wanted(span)]) < count:
                assert self._came.wait(end - monotonic()), f"{len(found)} of {count} spans came"
        return sorted(found, key=lambda span: span.proto.start_time_unix_nano)

    def clear(self) -> None:
        """Forget what came."""
        with self._came:
            self._spans.clear()

    @property
    def environment(self) -> dict[str, str]:
        """What has a process send its spans here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.target, "OTEL_BSP_SCHEDULE_DELAY": "50"}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Receive for the length of the block."""
    collector = Collector()
    collector._server.start()
    try:
        yield collector
    finally:
        collector._server.stop(None).wait()


@contextmanager
def tracing(collector: Collector) -> Iterator[trace.Tracer]:
    """Have this process trace itself as programs do; for the length of the block, as none does."""
    provider = TracerProvider(resource=Resource.create({"service.name": "program"}))
    exporter = OTLPSpanExporter(endpoint=collector.target)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    try:
        yield provider.get_tracer("test")
    finally:
        provider.shutdown()
        # Other tests must find a process that does not: as OpenTelemetry's own tests do it.
        trace._TRACER_PROVIDER, trace._TRACER_PROVIDER_SET_ONCE = None, Once()
        sys.modules.pop("talkwire._tracing", None)  # which has a tracer of that provider
