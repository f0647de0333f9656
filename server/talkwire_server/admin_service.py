"""AdminService, and the port of its own that it is served on."""

import logging

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.adapters import violations
from talkwire_server.checks import refuse_unknown
from talkwire_server.decoding import Decoding
from talkwire_server.describe import add_reflection
from talkwire_server.engine import Engine, StartError
from talkwire_server.errors import InvalidRequest, Violation
from talkwire_server.listener import listener
from talkwire_server.settings.limits import LimitSettings
from talkwire_server.statuses import Context, statuses

log = logging.getLogger("talkwire")

SERVICE = pb.DESCRIPTOR.services_by_name["AdminService"].full_name


class AdminService(chat_pb2_grpc.AdminServiceServicer):
    """Changes which models an engine has."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def LoadAdapter(
        self, request: pb.LoadAdapterRequest, context: Context
    ) -> pb.LoadAdapterResponse:
        """Serve an adapter."""
        async with statuses(context):
            refuse_unknown(request)
            if faults := violations(request.id, request.path):
                raise InvalidRequest(faults)
            model = await self._engine.load_adapter(request.id, request.path)
            return pb.LoadAdapterResponse(model=model)

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Serve an adapter no more."""
        async with statuses(context):
            refuse_unknown(request)
            if not request.id:
                raise InvalidRequest([Violation("id", "required", "REQUIRED")])
            await self._engine.unload_adapter(request.id)
            return pb.UnloadAdapterResponse()


class AdminPort:
    """A gRPC server for the AdminService alone, on the loopback address alone."""

    def __init__(self, engine: Engine, port: int, *, reflection: bool) -> None:
        self.address = f"127.0.0.1:{port}"
        self._grpc = listener(
            interceptors=[Decoding(LimitSettings())], options=[("grpc.so_reuseport", 0)]
        )
        chat_pb2_grpc.add_AdminServiceServicer_to_server(AdminService(engine), self._grpc)
        if reflection:
            add_reflection([SERVICE], self._grpc)

    async def listen(self) -> None:
        """Open the socket."""
        try:
            port = self._grpc.add_insecure_port(self.address)
        except RuntimeError:
            raise StartError(f"cannot listen on {self.address}: taken") from None
        self.address = f"127.0.0.1:{port}"
        await self._grpc.start()
        log.info("administered on %s, from this machine alone", self.address)

    async def close(self) -> None:
        """Close the socket and end what still runs. Idempotent."""
        await self._grpc.stop(None)
