"""ModelService: what can be asked for."""

import re

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.checks import refuse_unknown
from talkwire_server.engine import Engine
from talkwire_server.errors import InvalidRequest, ModelNotFound, Violation
from talkwire_server.statuses import Context, statuses

_PAGE = 1000


class ModelService(chat_pb2_grpc.ModelServiceServicer):
    """Lists and describes the models of an engine. Answers while they load, too."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """List a page of models; the page token is the number of models already seen."""
        async with statuses(context):
            refuse_unknown(request)
            start, size = self._page(request)
            end = start + size
            models = self._engine.models
            return pb.ListModelsResponse(
                models=models[start:end],
                next_page_token=str(end) if end < len(models) else "",
            )

    async def GetModel(self, request: pb.GetModelRequest, context: Context) -> pb.GetModelResponse:
        """Describe one model."""
        async with statuses(context):
            refuse_unknown(request)
            models = self._engine.models
            for model in models:
                if request.id in ("", model.id):
                    return pb.GetModelResponse(model=model)
            raise ModelNotFound(request.id, [model.id for model in models])

    def _page(self, request: pb.ListModelsRequest) -> tuple[int, int]:
        faults = []
        if request.page_size < 0:
            faults.append(Violation("page_size", f"must be >= 0, got {request.page_size}"))
        if request.page_token and not re.fullmatch(r"\d{1,9}", request.page_token):
            faults.append(Violation("page_token", "is not one that this server gave"))
        if faults:
            raise InvalidRequest(faults)
        return int(request.page_token or 0), min(request.page_size or _PAGE, _PAGE)
