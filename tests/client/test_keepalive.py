"""Pings during a long silence."""

import asyncio
from typing import Any

import grpc

from talkwire import AsyncClient
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc


class Silent(chat_pb2_grpc.ChatServiceServicer):
    """Answers after seven seconds without a byte."""

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        await asyncio.sleep(7)
        return pb.ChatResponse(message=pb.Message(text="at last"))


async def test_a_server_with_grpcs_own_rules_puts_up_with_our_pings() -> None:
    """No GOAWAY too_many_pings in a silence of seven pings' length.

    Pings are made frequent here, to save time. With `grpc.http2.max_pings_without_data` 0, which
    is often advised beside keepalive, the same call fails in its fifth second.
    """
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(Silent(), server)  # type: ignore[abstract]
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    often = [("grpc.keepalive_time_ms", 1000), ("grpc.keepalive_timeout_ms", 1000)]
    async with AsyncClient(f"127.0.0.1:{port}", retry=None, channel_options=often) as client:
        answer = await client.chat("x")
    await server.stop(None)

    assert answer.text == "at last"
