"""Health, in gRPC's own protocol. Knows not what the services do.

The servicer of grpcio-health-checking holds a lock while it writes: one watcher that reads nothing
keeps the status from changing, and the server from ending.
"""

import asyncio
from collections.abc import Collection

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_health.v1 import health_pb2 as pb

from talkwire_server.open_calls import leaving
from talkwire_server.statuses import Context, statuses

SERVING = pb.HealthCheckResponse.SERVING
NOT_SERVING = pb.HealthCheckResponse.NOT_SERVING
_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # without types
    """The health of services that share one status. NOT_SERVING at first.

    Its own name is SERVING as long as it answers: for probes of liveness, which must not end a
    server that loads.
    """

    def __init__(self, services: Collection[str]) -> None:
        self._services = {"", *services}
        self._status = NOT_SERVING
        self._changed = asyncio.Event()
        self._leaves = False

    def set(self, status: pb.HealthCheckResponse.ServingStatus) -> None:
        """Change the status, unless the server leaves."""
        if not self._leaves:
            self._status = status
            self._changed.set()
            self._changed = asyncio.Event()

    def leave(self) -> None:
        """Be NOT_SERVING for good."""
        self.set(NOT_SERVING)
        self._leaves = True

    async def Check(
        self, request: pb.HealthCheckRequest, context: Context
    ) -> pb.HealthCheckResponse:
        """Tell the status."""
        async with statuses(context):
            status = self._of(request.service)
        if status == _UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> None:
        """Tell the status now, and whenever it changes."""
        async with statuses(context):
            told = None
            while True:
                changed, status = self._changed, self._of(request.service)
                if status != told:
                    with leaving():
                        await context.write(pb.HealthCheckResponse(status=status))
                told = status
                await changed.wait()

    def _of(self, service: str) -> pb.HealthCheckResponse.ServingStatus:
        if service == health.SERVICE_NAME:
            return SERVING
        return self._status if service in self._services else _UNKNOWN
