"""Registers our rpcs with the gRPC servers of Ray Serve, which pass their bytes on unread.

Serve finds `add_services_to_server` by its name (`gRPCOptions.grpc_servicer_functions`), and calls
it in each replica and each proxy. The handlers are Serve's: they find the replica, and count calls.
"""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.ray_serve.context import CALL
from talkwire_server.statuses import Context

Handler: TypeAlias = Callable[[Any, Context], Any]

SERVICES: tuple[ServiceDescriptor, ...] = (
    pb.DESCRIPTOR.services_by_name["ChatService"],
    pb.DESCRIPTOR.services_by_name["ModelService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)


def add_services_to_server(_: object, server: Any) -> None:
    """Do what generated `add_..._to_server` functions do, for all our services."""
    make = server.service_handler_factory  # of Serve's `gRPCGenericServer`
    server.service_handler_factory = lambda **method: _telling(make(**method))
    for service in SERVICES:
        handlers = {method.name: _unread(method) for method in service.methods}
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(service.full_name, handlers)
    server.service_handler_factory = make


def _unread(method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
    """Say of what kind a method is; Serve puts its handlers in place of none."""
    takes = "stream" if method.client_streaming else "unary"
    gives = "stream" if method.server_streaming else "unary"
    made: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{takes}_{gives}_rpc_method_handler")(
        None
    )
    return made


def _telling(handler: Handler) -> Handler:
    """Have what a handler calls know gRPC's context, of which Serve passes on but a part."""
    if inspect.isasyncgenfunction(handler):

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
            CALL.set(context)
            async with aclosing(handler(request, context)) as answers:
                async for answer in answers:
                    yield answer

        return stream

    async def unary(request: Any, context: Context) -> Any:
        CALL.set(context)
        return await handler(request, context)

    return unary
