"""Shared streams move to other connections where a server's process has more than another."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import talkwire
from multiplexing import Multiplexing
from support import calling
from talkwire._carrier import MOST_MOVES
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.chat_service import MOVES
from talkwire_server.errors import Crowded
from talkwire_server.statuses import status

KINDS = pytest.mark.parametrize("kind", ["async multiplexed", "sync multiplexed"])


class Crowding(Multiplexing):
    """Has no room for so many streams that can move."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.peers: list[str] = []

    async def ChatMultiplex(
        self, requests: AsyncIterator[pb.ChatMultiplexRequest], context: Any
    ) -> AsyncIterator[pb.ChatMultiplexResponse]:
        self.peers.append(context.peer())
        moves = MOVES in dict(context.invocation_metadata())
        if not moves or len(self.peers) > self.most:
            async for message in super().ChatMultiplex(requests, context):
                yield message
        async for request in requests:
            yield crowded_answer(request.call)

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        """Say back what is asked."""
        await context.send_initial_metadata((("x-request-id", "mine"),))
        yield pb.ChatStreamResponse(text=request.query, finish_reason=pb.FINISH_REASON_STOP)
        yield pb.ChatStreamResponse(usage=pb.Usage())


def crowded_answer(call: int) -> pb.ChatMultiplexResponse:
    answer = pb.ChatMultiplexResponse()
    told = status(Crowded(), "")
    ended = pb.CallStatus(code=told.code, message=told.message, details=told.details)
    answer.events.add(call=call, status=ended)
    return answer


@asynccontextmanager
async def crowded(most: int) -> AsyncIterator[tuple[Crowding, str]]:
    service = Crowding(most)  # type: ignore[abstract]  # two methods are enough
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service, f"127.0.0.1:{port}"
    await server.stop(None)


@KINDS
async def test_a_crowded_stream_takes_another_connection(kind: str) -> None:
    """Its calls notice nothing, not even those that may not be tried again."""
    async with (
        crowded(3) as (service, target),
        calling(kind, target, retry=None) as caller,
        caller.stream("hi") as stream,
    ):
        answer = await stream.wait()

    assert answer.text == "hi"
    assert len({*service.peers}) == len(service.peers) == 4


@KINDS
async def test_it_moves_no_more_often_than_that(kind: str) -> None:
    """Then it stays, and says no more that it can move."""
    async with (
        crowded(1000) as (service, target),
        calling(kind, target) as caller,
        caller.stream("hi") as stream,
    ):
        answer = await stream.wait()

    assert answer.text == "hi"
    assert len(service.peers) == MOST_MOVES + 1


@KINDS
async def test_a_channel_of_the_callers_own_is_kept(kind: str) -> None:
    """Nobody said how to make another."""
    channels = grpc.aio if kind.startswith("async") else grpc
    async with crowded(1000) as (service, target):
        channel = channels.insecure_channel(target)
        async with calling(kind, target, channel=channel) as caller, caller.stream("hi") as stream:
            answer = await stream.wait()

    assert answer.text == "hi"
    assert len(service.peers) == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@KINDS
async def test_no_call_hangs_where_none_can_be_made(kind: str) -> None:
    """Whatever ends the reading of a stream ends its calls; new ones have another."""
    options: list[Any] = []

    async def said() -> str:
        async with caller.stream("hi") as stream:
            return str((await stream.wait()).text)

    async with crowded(3) as (_, target), calling(kind, target, channel_options=options) as caller:
        assert caller.client.channel
        options.append(("grpc.none", object()))
        async with asyncio.timeout(10):
            for failed in await asyncio.gather(said(), said(), return_exceptions=True):
                assert isinstance(failed, talkwire.ServerError)
                assert "could not read on" in str(failed)
            options.clear()
            assert await said() == "hi"
