"""Metrics of rpcs, under the names that gRPC's dashboards have for them. Knows no chats.

A message costs an integer; it is counted in Prometheus once a second.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from time import monotonic, process_time
from typing import Any, TypeAlias

import grpc
from google.protobuf import descriptor_pool
from prometheus_client import Counter, Histogram

from talkwire_server.journal import SLACK
from talkwire_server.statuses import Context
from talkwire_server.telemetry.chat_metrics import SECONDS, code_name, series

Details: TypeAlias = grpc.HandlerCallDetails

PAUSE = 1.0  # seconds

_LABELS = ("grpc_type", "grpc_service", "grpc_method")

STARTED = Counter("grpc_server_started", "RPCs that began.", _LABELS)
HANDLED = Counter("grpc_server_handled", "RPCs that ended.", [*_LABELS, "grpc_code"])
HANDLING = Histogram(
    "grpc_server_handling_seconds", "From an RPC's begin to its end.", _LABELS, buckets=SECONDS
)
RECEIVED = Counter("grpc_server_msg_received", "Messages that callers sent.", _LABELS)
SENT = Counter("grpc_server_msg_sent", "Messages that callers were sent.", _LABELS)
EVENTS = Counter(
    "talkwire_multiplex_events", "Events in the messages of ChatMultiplex: deltas, mostly."
)
CPU = Counter("talkwire_frontend_cpu_seconds", "Processor time of what serves the port.")

_TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
_MULTIPLEX = "/talkwire.v1.ChatService/ChatMultiplex"


class _Method:
    """A method of ours: its series, and the messages that were not counted there yet."""

    __slots__ = ("_labels", "events", "is_multiplex", "received", "sent")

    def __init__(self, name: str) -> None:
        self.is_multiplex = name == _MULTIPLEX
        found = descriptor_pool.Default().FindMethodByName(name.strip("/").replace("/", "."))
        kind = _TYPES[found.client_streaming, found.server_streaming]
        self._labels = kind, found.containing_service.full_name, found.name
        self.received = self.sent = self.events = 0
        self.flush()  # so that the first message is an increase, and not a beginning

    @contextmanager
    def handling(self, context: Context) -> Iterator[None]:
        """Count a call that is answered in the block."""
        begun = monotonic()
        series(STARTED, *self._labels).inc()
        code = grpc.StatusCode.UNKNOWN  # what gRPC makes of an exception
        try:
            yield
            code = context.code() or grpc.StatusCode.OK
        except asyncio.CancelledError:
            code = context.code() or _why_left(context)
            raise
        except BaseException:
            code = context.code() or code
            raise
        finally:
            series(HANDLED, *self._labels, code_name(code)).inc()
            series(HANDLING, *self._labels).observe(monotonic() - begun)

    def flush(self) -> None:
        """Count the messages."""
        series(RECEIVED, *self._labels).inc(self.received)
        series(SENT, *self._labels).inc(self.sent)
        EVENTS.inc(self.events)
        self.received = self.sent = self.events = 0


class CallMetrics(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Counts calls and their messages."""

    def __init__(self) -> None:
        self._methods: dict[str, _Method | None] = {}
        self._cpu = process_time()

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Any:
        """Find the handler of a call, and count what passes it."""
        handler = await continuation(handler_call_details)
        method = self._method(handler_call_details.method)
        return _counted(handler, method) if handler and method else handler

    async def watch(self) -> None:
        """Count messages and processor time as long as this runs."""
        while True:
            try:
                await asyncio.sleep(PAUSE)
            finally:
                self.flush()

    def flush(self) -> None:
        """Count what there was until now."""
        for method in filter(None, self._methods.values()):
            method.flush()
        cpu, self._cpu = self._cpu, process_time()
        CPU.inc(self._cpu - cpu)

    def _method(self, name: str) -> _Method | None:
        """Return what is counted of a method; None if there is none of the name."""
        if name not in self._methods:
            try:
                self._methods[name] = _Method(name)
            except KeyError:  # a caller's own invention, which must not become a label
                return None
        return self._methods[name]


def _counted(handler: Any, method: _Method) -> Any:
    kinds = [
        "stream" if streams else "unary"
        for streams in (handler.request_streaming, handler.response_streaming)
    ]
    name = "_".join(kinds)
    behavior = getattr(handler, name)
    deserialize, serialize = handler.request_deserializer, handler.response_serializer

    async def answer(request: Any, context: Context) -> Any:
        with method.handling(context):
            return await behavior(request, context)

    async def generate(request: Any, context: Context) -> Any:
        with method.handling(context):
            async for message in behavior(request, context):
                yield message

    def receive(data: bytes) -> Any:
        method.received += 1
        return deserialize(data)

    def send(message: Any) -> Any:
        method.sent += 1
        return serialize(message)

    def send_events(message: Any) -> Any:
        method.events += len(message.events)
        return send(message)

    return handler._replace(
        **{name: generate if inspect.isasyncgenfunction(behavior) else answer},
        request_deserializer=deserialize and receive,
        response_serializer=serialize and (send_events if method.is_multiplex else send),
    )


def _why_left(context: Context) -> grpc.StatusCode:
    """Tell whether a caller left, or its deadline was over."""
    left = context.time_remaining()
    is_late = left is not None and left < SLACK
    return grpc.StatusCode.DEADLINE_EXCEEDED if is_late else grpc.StatusCode.CANCELLED
