"""ChatMultiplex for the services that tests write: their own ChatStream, call by call."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc


class Ended(Exception):
    """A call was aborted."""


class CallContext:
    """What ChatStream's context is to a call of its own."""

    def __init__(self, context: Any, metadata: Any) -> None:
        self._context = context
        self._metadata = metadata
        self.admitted = ""
        self.status = pb.CallStatus()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def invocation_metadata(self) -> Any:
        return self._metadata

    async def send_initial_metadata(self, metadata: Any) -> None:
        self.admitted = dict(metadata).get("x-request-id", "")

    async def abort(self, code: grpc.StatusCode, text: str, trailing_metadata: Any = ()) -> None:
        details = dict(trailing_metadata).get("grpc-status-details-bin", b"")
        self.status = pb.CallStatus.FromString(details)
        self.status.code, self.status.message = code.value[0], text
        raise Ended


class Multiplexing(chat_pb2_grpc.ChatServiceServicer):
    """A service that answers ChatMultiplex as it answers ChatStream."""

    async def ChatMultiplex(
        self, requests: AsyncIterator[pb.ChatMultiplexRequest], context: Any
    ) -> AsyncIterator[pb.ChatMultiplexResponse]:
        events: asyncio.Queue[pb.ChatMultiplexResponse.Event] = asyncio.Queue()
        calls: dict[int, asyncio.Task[None]] = {}

        def forget(call: int, _: object) -> None:
            del calls[call]

        async def read() -> None:
            async for request in requests:
                if request.HasField("start"):
                    answering = self._answer(request, context, events)
                    task = calls[request.call] = asyncio.create_task(answering)
                    task.add_done_callback(partial(forget, request.call))
                elif request.call in calls:  # else it ended meanwhile
                    calls[request.call].cancel()

        reading = asyncio.create_task(read())
        try:
            while True:
                yield pb.ChatMultiplexResponse(events=[await events.get()])
        finally:
            for task in (reading, *calls.values()):
                task.cancel()

    async def _answer(
        self,
        request: pb.ChatMultiplexRequest,
        context: Any,
        events: "asyncio.Queue[pb.ChatMultiplexResponse.Event]",
    ) -> None:
        metadata = (("x-request-id", request.start.request.request_id),)
        own: Any = CallContext(context, (*context.invocation_metadata(), *metadata))

        def tell(**event: Any) -> None:
            if own.admitted:
                admitted, own.admitted = own.admitted, ""
                tell(admitted=admitted)
            events.put_nowait(pb.ChatMultiplexResponse.Event(call=request.call, **event))

        service: Any = self
        try:
            async for delta in service.ChatStream(request.start.request, own):
                tell(response=delta)
        except Ended:
            pass
        except asyncio.CancelledError:
            own.status.code = grpc.StatusCode.CANCELLED.value[0]
        tell(status=own.status)
