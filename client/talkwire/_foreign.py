"""Messages of other gRPC packages that the client reads: google.rpc's and grpc.health.v1's.

Declared here, each with the fields that are read, in a descriptor pool of their own, so that the
client needs neither googleapis-common-protos nor grpcio-health-checking, and does not clash with
them where they are installed.
Sources: google/rpc/status.proto, google/rpc/error_details.proto, grpc/health/v1/health.proto.
"""

from typing import Any

from google.protobuf import any_pb2, descriptor_pb2, duration_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.text_format import Parse

_FILES = (
    """
    name: "rpc" package: "google.rpc" syntax: "proto3"
    dependency: ["google/protobuf/any.proto", "google/protobuf/duration.proto"]
    message_type { name: "Status"
      field { name: "code" number: 1 type: TYPE_INT32 }
      field { name: "message" number: 2 type: TYPE_STRING }
      field { name: "details" number: 3 label: LABEL_REPEATED
              type: TYPE_MESSAGE type_name: ".google.protobuf.Any" } }
    message_type { name: "ErrorInfo"
      field { name: "reason" number: 1 type: TYPE_STRING }
      field { name: "domain" number: 2 type: TYPE_STRING }
      field { name: "metadata" number: 3 label: LABEL_REPEATED
              type: TYPE_MESSAGE type_name: ".google.rpc.ErrorInfo.MetadataEntry" }
      nested_type { name: "MetadataEntry" options { map_entry: true }
        field { name: "key" number: 1 type: TYPE_STRING }
        field { name: "value" number: 2 type: TYPE_STRING } } }
    message_type { name: "RetryInfo"
      field { name: "retry_delay" number: 1
              type: TYPE_MESSAGE type_name: ".google.protobuf.Duration" } }
    message_type { name: "BadRequest"
      field { name: "field_violations" number: 1 label: LABEL_REPEATED
              type: TYPE_MESSAGE type_name: ".google.rpc.BadRequest.FieldViolation" }
      nested_type { name: "FieldViolation"
        field { name: "field" number: 1 type: TYPE_STRING }
        field { name: "description" number: 2 type: TYPE_STRING }
        field { name: "reason" number: 3 type: TYPE_STRING } } }
    """,
    """
    name: "health" package: "grpc.health.v1" syntax: "proto3"
    message_type { name: "HealthCheckRequest"
      field { name: "service" number: 1 type: TYPE_STRING } }
    message_type { name: "HealthCheckResponse"
      field { name: "status" number: 1 type: TYPE_INT32 } }
    """,
)


def _pool() -> DescriptorPool:
    pool = DescriptorPool()
    for known in (any_pb2, duration_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    for text in _FILES:
        pool.Add(Parse(text, descriptor_pb2.FileDescriptorProto()))
    return pool


_POOL = _pool()


def _class(name: str) -> Any:  # the classes are made at run time: no type knows their fields
    return GetMessageClass(_POOL.FindMessageTypeByName(name))


Status = _class("google.rpc.Status")
DETAILS = {name: _class(f"google.rpc.{name}") for name in ("ErrorInfo", "RetryInfo", "BadRequest")}
HealthCheckRequest = _class("grpc.health.v1.HealthCheckRequest")
HealthCheckResponse = _class("grpc.health.v1.HealthCheckResponse")
SERVING = 1
HEALTH: dict[str, Any] = {  # how the methods of grpc.health.v1.Health are written and read
    "request_serializer": HealthCheckRequest.SerializeToString,
    "response_deserializer": HealthCheckResponse.FromString,
}


def check(channel: Any) -> Any:
    """Return what asks for the health of a server, on a channel of either stack."""
    return channel.unary_unary("/grpc.health.v1.Health/Check", **HEALTH)
