"""A server in this process, and both clients behind one face, for tests that await."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.message import Message

from talkwire import Answer, AsyncClient, Chunk, Client
from talkwire_server.engine import Engine
from talkwire_server.server import Server
from talkwire_server.settings import Settings


class RunningServer:
    """A server that listens on a free port, and what a test may want to look at."""

    def __init__(self, server: Server, engine: Engine) -> None:
        self.server = server
        self.engine = engine
        self.target = server.address


@asynccontextmanager
async def running(engine: Engine, **settings: Any) -> AsyncIterator[RunningServer]:
    """Serve an engine on a free port for the length of the block."""
    server = Server(Settings(port=0, **settings), engine)
    await server.listen()
    await server.load()
    try:
        yield RunningServer(server, engine)
    finally:
        await server.close()


class AsyncCaller:
    """`AsyncClient` as it is."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client

    async def chat(self, query: str = "", **options: Any) -> Answer:
        return await self.client.chat(query, **options)

    @asynccontextmanager
    async def stream(self, query: str = "", **options: Any) -> AsyncIterator[Any]:
        async with self.client.stream(query, **options) as stream:
            yield stream

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        return await getattr(self.client, method)(*args, **options)


class ThreadStream:
    """`Stream`, each step in a thread."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        chunk: Chunk | None = await asyncio.to_thread(next, self._stream, None)
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def wait(self) -> Answer:
        return await asyncio.to_thread(self._stream.wait)

    async def stop(self) -> Answer:
        return await asyncio.to_thread(self._stream.stop)


class ThreadCaller:
    """`Client`, each call in a thread, because the server lives in this one."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def chat(self, query: str = "", **options: Any) -> Answer:
        return await asyncio.to_thread(self.client.chat, query, **options)

    @asynccontextmanager
    async def stream(self, query: str = "", **options: Any) -> AsyncIterator[Any]:
        stream = self.client.stream(query, **options)
        await asyncio.to_thread(stream.__enter__)
        try:
            yield ThreadStream(stream)
        finally:
            await asyncio.to_thread(stream.__exit__, None, None, None)

    async def call(self, method: str, *args: Any, **options: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, method), *args, **options)


@asynccontextmanager
async def calling(kind: str, target: str | list[str], **options: Any) -> AsyncIterator[Any]:
    """Connect a client to a target for the length of the block: (a)sync, maybe "multiplexed"."""
    options = {"multiplex": "multiplexed" in kind, **options}
    if kind.startswith("async"):
        async with AsyncClient(target, **options) as client:
            yield AsyncCaller(client)
    else:
        with Client(target, **options) as sync_client:
            yield ThreadCaller(sync_client)


async def sees(caller: Any, number: int) -> None:
    """Wait until a client of several servers sees so many that serve."""
    await caller.call("ready", 60)
    async with asyncio.timeout(60):
        while len(caller.client._replicas.serving) != number:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0.005)


M = TypeVar("M", bound=Message)


def make(kind: type[M], /, **fields: Any) -> M:
    """Make a message of plain dicts and lists, which protobuf takes but its types do not show."""
    return kind(**fields)


def trailers(error: grpc.aio.AioRpcError) -> dict[str, Any]:
    """Trailing metadata as a dict."""
    return dict(cast(Any, error.trailing_metadata()))
