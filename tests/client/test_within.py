"""Calls within calls: what a handler that asks a talkwire server hands on with `within=context`."""

import asyncio
import math
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

import talkwire
from multiplexing import Multiplexing
from support import RunningServer, calling
from talkwire import AsyncClient, Client
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc


class Front(chat_pb2_grpc.ChatServiceServicer):
    """Hands its calls on, in asyncio."""

    def __init__(self, client: AsyncClient, **options: Any) -> None:
        self.client = client
        self.options = options
        self.context: Any = None
        self.failed: asyncio.Future[BaseException] = asyncio.Future()

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        self.context = context
        try:
            answer = await self.client.chat(request.query, within=context, **self.options)
        except BaseException as error:
            self.failed.set_result(error)
            raise
        return answer.proto


class BlockingFront(chat_pb2_grpc.ChatServiceServicer):
    """Hands its calls on, in threads."""

    def __init__(self, client: Client, **options: Any) -> None:
        self.client = client
        self.options = options
        self.context: Any = None
        self.failed: asyncio.Future[BaseException] = asyncio.Future()
        self._loop = asyncio.get_running_loop()

    def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        self.context = context
        try:
            return self.client.chat(request.query, within=context, **self.options).proto
        except talkwire.Error as error:
            self._loop.call_soon_threadsafe(self.failed.set_result, error)
            raise


@asynccontextmanager
async def fronted(
    kind: str, target: str, **options: Any
) -> AsyncIterator[tuple[Any, Front | BlockingFront]]:
    """Serve a front to a target; yield a stub to it, and the front."""
    front: Front | BlockingFront
    if kind.startswith("async"):
        front = Front(AsyncClient(target, timeout=math.inf), **options)  # type: ignore[abstract]
        server: Any = grpc.aio.server()
    else:
        front = BlockingFront(Client(target, timeout=math.inf), **options)  # type: ignore[abstract]
        server = grpc.server(ThreadPoolExecutor(4))
    chat_pb2_grpc.add_ChatServiceServicer_to_server(front, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    started = server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        if started:
            await started
        yield chat_pb2_grpc.ChatServiceStub(channel), front
    stopped = server.stop(None)
    if isinstance(front, Front):
        await stopped
        await front.client.close()
    else:
        await asyncio.to_thread(stopped.wait)
        front.client.close()


class Noting(Multiplexing):
    """Notes what comes with a call."""

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        self.metadata = dict(context.invocation_metadata())
        self.left = context.time_remaining()
        yield pb.ChatStreamResponse(text=request.query, id="i", usage=pb.Usage())


@asynccontextmanager
async def noting() -> AsyncIterator[tuple[str, Noting]]:
    """Serve a `Noting`; yield its address, too."""
    service, server = Noting(), grpc.aio.server()  # type: ignore[abstract]
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}", service
    await server.stop(None)


async def test_deadline_and_trace_go_on(kind: str) -> None:
    """The time that is left, traceparent and tracestate; nothing else of the caller's."""
    metadata = (("traceparent", "00-1-2-01"), ("tracestate", "a=b"), ("authorization", "secret"))
    async with noting() as (target, backend), fronted(kind, target) as (front, _):
        answer = await front.Chat(pb.ChatRequest(query="x"), timeout=60, metadata=metadata)
        within = backend.left, dict(backend.metadata)
        await front.Chat(pb.ChatRequest(query="x"))

    assert answer.message.text == "x"
    assert 0 < within[0] <= 60.1
    assert {key: within[1].get(key) for key, _ in metadata} == {
        **dict(metadata[:2]),
        "authorization": None,
    }
    assert backend.left is None  # the client's timeout is infinite
    assert "traceparent" not in backend.metadata


async def test_what_a_call_says_itself_goes_first(kind: str) -> None:
    """A shorter timeout, another parent of the trace."""
    options = {"timeout": 30, "metadata": {"traceparent": "own"}}
    async with noting() as (target, backend), fronted(kind, target, **options) as (front, _):
        metadata = (("traceparent", "theirs"),)
        await front.Chat(pb.ChatRequest(query="x"), timeout=60, metadata=metadata)

    assert 0 < backend.left <= 30.1
    assert backend.metadata["traceparent"] == "own"


@pytest.mark.parametrize("end", ["cancel", "deadline"])
async def test_the_answer_ends_with_the_incoming_call(
    kind: str, slow_echo: RunningServer, end: str
) -> None:
    """When its caller leaves or its time is over, the server behind has nothing left to do."""
    async with fronted(kind, slow_echo.target) as (front, service):
        query = pb.ChatRequest(query="word " * 5000)
        call = front.Chat(query, timeout=2 if end == "deadline" else 600)
        while not slow_echo.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
            await asyncio.sleep(0.005)
        if end == "cancel":
            call.cancel()
        with pytest.raises(asyncio.CancelledError if end == "cancel" else grpc.RpcError):
            await call
        await slow_echo.server.admission.empty()
        error = await service.failed

    expected = (talkwire.Cancelled, talkwire.Timeout, asyncio.CancelledError)
    assert isinstance(error, expected)


async def test_a_task_of_the_handlers_ends_with_it(slow_echo: RunningServer) -> None:
    """What outlives the handler, but was asked within its call, is cancelled."""

    class Leaving(Multiplexing):
        async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
            self.task = asyncio.create_task(client.chat("word " * 5000, within=context))
            while not slow_echo.engine.unfinished:  # noqa: ASYNC110  # the engine has no event
                await asyncio.sleep(0.005)
            return pb.ChatResponse()

    service, server = Leaving(), grpc.aio.server()  # type: ignore[abstract]
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with AsyncClient(slow_echo.target) as client:
        async with AsyncClient(f"127.0.0.1:{port}") as caller:
            await caller.chat("x")
        with pytest.raises(talkwire.Cancelled):
            await service.task
    await server.stop(None)


async def test_what_is_asked_within_a_call_that_is_over_is_cancelled(
    kind: str, slow_echo: RunningServer
) -> None:
    """As if the end had come amid the answer."""
    async with fronted(kind, slow_echo.target) as (front, service):
        await front.Chat(pb.ChatRequest(query="x"))
        async with calling(kind, slow_echo.target) as caller:
            with pytest.raises(talkwire.Cancelled):
                await caller.chat("word " * 5000, within=service.context)
