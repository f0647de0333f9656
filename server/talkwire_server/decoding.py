"""From bytes to a request within the limits. gRPC names a Python class where bytes are none.

What cannot be read, or holds too much to be looked at, becomes a `Refused`, which the service meets
at its first look into it. Knows no field's meaning.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NoReturn, TypeAlias

import grpc
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import crowded, head, limit_violations
from talkwire_server.errors import CallError, InvalidRequest, Violation
from talkwire_server.settings.limits import LimitSettings

Details: TypeAlias = grpc.HandlerCallDetails

_REQUESTS: dict[str, type[Message]] = {
    f"/{service.full_name}/{method.name}": GetMessageClass(method.input_type)
    for file in (pb.DESCRIPTOR, health_pb2.DESCRIPTOR)
    for service in file.services_by_name.values()
    for method in service.methods
}


class Refused:
    """Stands for a request that must not be looked at: whoever does raises why."""

    # A service asks for the id before it can refuse, for the request in a CountTokensRequest, and
    # for the number of a multiplexed call.
    request_id = ""

    def __init__(self, error: CallError, call: int = 0) -> None:
        self.call = call
        self.request = self
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        raise self._error


class Decoding(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Has the requests of our services read here."""

    def __init__(self, limits: LimitSettings) -> None:
        self._limits = limits

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Any]], handler_call_details: Details
    ) -> Any:
        """Find the handler of a call, and give it our reader."""
        handler = await continuation(handler_call_details)
        kind = _REQUESTS.get(handler_call_details.method)
        if handler is None:
            return None
        if kind is None:
            return _ending(handler) if handler.request_streaming else handler

        def decode(data: bytes) -> Message | Refused:
            return read(kind, data, self._limits)

        return handler._replace(request_deserializer=decode)


def _ending(handler: Any) -> Any:
    """Have what is no message end a stream of requests: its service would tell of Python."""

    def decode(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except DecodeError:
            return grpc.aio.EOF  # type: ignore[attr-defined]  # not in the stubs

    return handler._replace(request_deserializer=decode)


def read(kind: type[Message], data: bytes, limits: LimitSettings) -> Message | Refused:
    """Make a message of bytes, or what refuses it."""
    try:
        return _read(kind, data, limits)
    except CallError as error:
        if kind is not pb.ChatMultiplexRequest:
            return Refused(error)
        return Refused(error, pb.ChatMultiplexRequest.FromString(head(data)).call)


def _read(kind: type[Message], data: bytes, limits: LimitSettings) -> Message:
    most = limits.max_request_fields
    if path := crowded(data, kind, most):
        text = f"brings the request to more than {most} fields"
        raise InvalidRequest([Violation(path, text, "OUT_OF_RANGE")])
    try:
        request = kind.FromString(data)
    except DecodeError:
        fault = Violation("request", "is not a protobuf message", "MALFORMED")
        raise InvalidRequest([fault]) from None
    if (chat := _chat(request)) is None:
        return request
    if faults := list(limit_violations(chat, limits)):
        raise InvalidRequest(faults)
    return request


def _chat(request: Message) -> pb.ChatRequest | None:
    match request:
        case pb.ChatRequest():
            return request
        case pb.CountTokensRequest():
            return request.request
        case pb.ChatMultiplexRequest():
            return request.start.request
    return None
