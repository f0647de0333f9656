"""Fixtures: real servers in this process, and both clients."""

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from support import RunningServer, calling, running
from talkwire_server.echo import EchoEngine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the real engine's tests go first: it must fork before this process has a gRPC server."""
    items.sort(key=lambda item: "engine" not in item.path.parts)


@pytest.fixture(scope="session")
async def echo() -> AsyncIterator[RunningServer]:
    """A server on the echo engine, as fast as it can."""
    async with running(EchoEngine("echo", "Be brief.", 0)) as server:
        yield server


@pytest.fixture(scope="session")
async def slow_echo() -> AsyncIterator[RunningServer]:
    """A server on the echo engine that takes 20 ms a word."""
    async with running(EchoEngine("echo", "", 0.02)) as server:
        yield server


@pytest.fixture(params=["async", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients."""
    return str(request.param)


@pytest.fixture
async def client(kind: str, echo: RunningServer) -> AsyncIterator[Any]:
    """Either client, connected to the echo server."""
    async with calling(kind, echo.target) as caller:
        yield caller


@pytest.fixture
async def slow_client(kind: str, slow_echo: RunningServer) -> AsyncIterator[Any]:
    """Either client, connected to the slow echo server."""
    async with calling(kind, slow_echo.target) as caller:
        yield caller


@pytest.fixture
async def channel(echo: RunningServer) -> AsyncIterator[grpc.aio.Channel]:
    """A plain channel to the echo server."""
    async with grpc.aio.insecure_channel(echo.target) as channel:
        yield channel
