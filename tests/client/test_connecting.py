"""What a client says of connections that it cannot have, or loses."""

import asyncio
from typing import Any

import grpc
import pytest

import talkwire
from multiplexing import Multiplexing
from support import RunningServer, calling
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc


@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("127.0.0.1:1", "Connection refused"),
        ("nowhere.invalid:1", "nowhere.invalid"),
        ("unix:/nowhere", "No such file"),
        ("grpcs://{echo}", "handshake|SSL"),
    ],
)
async def test_no_connection_has_a_cause(
    kind: str, echo: RunningServer, target: str, cause: str
) -> None:
    """Where nobody listens, of a name that is none, of a server without TLS."""
    target = target.format(echo=echo.target)
    async with calling(kind, target, connect_timeout=0.5) as caller:
        with pytest.raises(talkwire.ConnectError, match=f"^no connection .*: .*({cause})") as chat:
            await caller.chat("x")
        with pytest.raises(talkwire.ConnectError, match=cause):
            await caller.call("models")

    assert chat.value.target == target.removeprefix("grpcs://")
    assert f"to {chat.value.target} within 0.5 s: " in chat.value.message


async def test_no_time_is_a_timeout(kind: str, slow_echo: RunningServer) -> None:
    """Where none is left to connect in, it is not the connection that lacks."""
    async with calling(kind, slow_echo.target) as caller:
        with pytest.raises(talkwire.Timeout):
            await caller.chat("a b c d e", timeout=0)


class Taking(Multiplexing):
    """Takes a chat, and never answers."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        await context.send_initial_metadata((("x-request-id", "i"),))
        self.taken.set()
        await asyncio.Future()
        raise AssertionError


async def test_a_lost_connection_is_told_from_none(kind: str) -> None:
    """Of `chat`, too, which has received nothing of the answer."""
    service, server = Taking(), grpc.aio.server()  # type: ignore[abstract]
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with calling(kind, target) as caller:
        asking = asyncio.create_task(caller.chat("x"))
        await service.taken.wait()
        await server.stop(None)
        with pytest.raises(talkwire.ConnectError, match=f"^lost the connection to {target}: "):
            await asking
