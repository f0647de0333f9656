"""gRPC reflection: tells callers the contract, so that grpcurl needs no .proto file."""

from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha import reflection


class _Symbols:
    """protobuf's pool, which finds no file of a method, with the files of methods."""

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        """Find the file that declares a symbol; KeyError if none does."""
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            return self._pool.FindMethodByName(symbol).containing_service.file


def add_reflection(services: list[str], server: grpc.aio.Server) -> None:
    """Describe the named services, and reflection itself."""
    reflection.enable_server_reflection(
        [*services, reflection.SERVICE_NAME], server, cast(DescriptorPool, _Symbols())
    )
