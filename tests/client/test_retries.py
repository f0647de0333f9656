"""How refused calls are tried again: by gRPC itself, when the server says, and not without end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import grpc
import pytest

import talkwire
from multiplexing import Multiplexing
from support import calling, running
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.echo import EchoEngine
from talkwire_server.server import Server
from talkwire_server.settings import Settings


@asynccontextmanager
async def loading() -> AsyncIterator[Server]:
    """Run a server that refuses until it is told to load, and asks for a second's patience."""
    server = Server(Settings(port=0), EchoEngine(["echo"], "", 0))
    await server.listen()
    try:
        yield server
    finally:
        await server.close()


async def test_a_refused_call_is_tried_again_when_the_server_says(kind: str) -> None:
    """Not before: the server's delay stands in place of gRPC's own."""
    async with loading() as server, calling(kind, server.address) as caller:
        await caller.call("models")  # it has a connection now
        begin = monotonic()
        asking = asyncio.create_task(caller.chat("hi"))
        await asyncio.sleep(0.5)
        await server.load()
        answer = await asking
        took = monotonic() - begin

    assert answer.text == "hi"
    assert took > 0.9  # gRPC's own would be 0.1 and 0.2


async def test_no_try_outlives_the_deadline(kind: str) -> None:
    """What was refused with a delay beyond it is told at once, not waited for in vain."""
    async with loading() as server, calling(kind, server.address) as caller:
        with pytest.raises(talkwire.Unavailable, match="the model is loading"):
            await caller.chat("hi", timeout=0.9)
        with pytest.raises(talkwire.Unavailable) as caught:
            await caller.chat("hi")

    assert (caught.value.reason, caught.value.retry_after) == ("MODEL_LOADING", 1)


class Refusing(Multiplexing):
    """Refuses while it is told to, and counts."""

    def __init__(self) -> None:
        self.refuses = True
        self.attempts = 0

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        self.attempts += 1
        if self.refuses:
            trailers = (("grpc-retry-pushback-ms", "1"),)
            await context.abort(grpc.StatusCode.UNAVAILABLE, "no", trailing_metadata=trailers)
        return pb.ChatResponse()


async def test_tries_have_a_budget(kind: str) -> None:
    """Where most calls fail none is tried again, until enough have gone well."""
    service = Refusing()  # type: ignore[abstract]
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def attempts() -> int:
        before = service.attempts
        with pytest.raises(talkwire.ConnectError):
            await caller.chat("x")
        return service.attempts - before

    async with calling(kind, f"127.0.0.1:{port}") as caller:
        refused = [await attempts() for _ in range(20)]
        service.refuses = False
        for _ in range(200):
            await caller.chat("x")
        service.refuses = True
        again = await attempts()
    await server.stop(None)

    assert (refused[:10], refused[-5:], again) == ([4] * 10, [1] * 5, 4)


async def test_a_full_server_is_overloaded_and_says_for_how_long(kind: str) -> None:
    """The refusal has the server's delay in seconds; gRPC waits for it, and then there is room."""
    engine = EchoEngine(["echo"], "", 0.05)
    async with (
        running(engine, max_running_requests=1, max_queued_requests=0) as server,
        calling(kind, server.target, retry=None) as once,
        calling(kind, server.target) as again,
    ):
        first = asyncio.create_task(once.chat("word " * 5000, request_id="first"))
        while not engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
            await asyncio.sleep(0.005)
        with pytest.raises(talkwire.Overloaded) as caught:
            await once.chat("x")
        second = asyncio.create_task(again.chat("x"))
        assert await once.call("abort", "first")
        await first
        answer = await second

    assert (caught.value.reason, answer.text) == ("QUEUE_FULL", "x")
    assert isinstance(caught.value.retry_after, float)
    assert 0 < caught.value.retry_after < 60
