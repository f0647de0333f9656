"""Registers our rpcs with the gRPC servers of Ray Serve, which pass their bytes on unread.

Serve finds `add_services_to_server` by its name (`gRPCOptions.grpc_servicer_functions`), and runs it
in each replica and each proxy; the handlers are its own.
"""

import os
from typing import Any

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2

from talkwire_proto.v1 import chat_pb2 as pb

SERVICES: tuple[ServiceDescriptor, ...] = (
    pb.DESCRIPTOR.services_by_name["ChatService"],
    pb.DESCRIPTOR.services_by_name["ModelService"],
    health_pb2.DESCRIPTOR.services_by_name["Health"],
)


class Received:
    """The bytes of a request, and which process got them from the network."""

    __slots__ = ("data", "pid")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.pid = os.getpid()


def add_services_to_server(servicer: object, server: Any) -> None:  # noqa: ARG001  # Serve's stand-in
    """Do what generated `add_..._to_server` functions do, for all our services."""
    for service in SERVICES:
        handlers = {method.name: _handler(method) for method in service.methods}
        generic = grpc.method_handlers_generic_handler(service.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))
        server.add_registered_method_handlers(service.full_name, handlers)


def _handler(method: MethodDescriptor) -> "grpc.RpcMethodHandler[Any, Any]":
    takes = "stream" if method.client_streaming else "unary"
    gives = "stream" if method.server_streaming else "unary"
    make = getattr(grpc, f"{takes}_{gives}_rpc_method_handler")
    handler: grpc.RpcMethodHandler[Any, Any] = make(None, request_deserializer=Received)
    return handler
