"""Clients that take nothing, or take their time: whose stream is cut, and whose is not."""

import asyncio
import sys
from time import monotonic
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from support import running, trailers
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.echo import EchoEngine

# An answer of 3 MB, of which a client that does not read takes 64 KiB.
LARGE = " ".join(["x" * 10_000] * 300)
FIXED_WINDOW = (("grpc.http2.bdp_probe", 0),)


def echo(delay: float = 0) -> EchoEngine:
    return EchoEngine(["echo"], "", delay)


def channel(target: str) -> grpc.aio.Channel:
    """Connect without reading ahead."""
    return grpc.aio.insecure_channel(target, options=FIXED_WINDOW)


async def rest(call: Any, texts: list[str]) -> None:
    """Read what is left of a stream."""
    async for delta in call:
        texts.append(delta.text)  # noqa: PERF401  # what came before it fails counts


async def test_a_stream_that_nobody_reads_is_aborted() -> None:
    """The engine's request ends; what was sent is there to be read, and then why there is no more.

    A stream beside it on the same connection ends in full.
    """
    engine = echo()
    async with running(engine, slow_reader_timeout=0.4) as server, channel(server.target) as to:
        stub = ChatServiceStub(to)
        call = stub.ChatStream(pb.ChatRequest(query=LARGE, request_id="lazy"))
        texts = [(await anext(aiter(call))).text]
        begin = monotonic()
        while engine.unfinished:  # noqa: ASYNC110  # it has no event for it
            await asyncio.sleep(0.01)
        seconds = monotonic() - begin
        beside = [delta async for delta in stub.ChatStream(pb.ChatRequest(query="a b c"))]
        with pytest.raises(grpc.aio.AioRpcError) as aborted:
            await rest(call, texts)
    status, info = status_pb2.Status(), error_details_pb2.ErrorInfo()
    status.ParseFromString(trailers(aborted.value)["grpc-status-details-bin"])
    status.details[0].Unpack(info)

    text = "".join(texts)
    sys.stdout.write(f"limit 0.4 s: aborted after {seconds:.2f} s and {len(text)} characters\n")
    assert aborted.value.code() is grpc.StatusCode.ABORTED
    assert (info.reason, info.metadata["request_id"]) == ("SLOW_READER", "lazy")
    assert text
    assert LARGE.startswith(text)
    assert "".join(delta.text for delta in beside) == "a b c"


async def test_who_takes_a_message_now_and_then_is_not_slow() -> None:
    """Not the stream's age counts, but that of the message which waits to be taken."""
    async with running(echo(), slow_reader_timeout=2) as server, channel(server.target) as to:
        begin, text = monotonic(), ""
        async for delta in ChatServiceStub(to).ChatStream(pb.ChatRequest(query=LARGE)):
            text += delta.text
            await asyncio.sleep(0.01)

    assert monotonic() - begin > 2
    assert text == LARGE


async def test_a_slow_engine_makes_no_slow_reader() -> None:
    """A stream that waits for its next word is not cut, however long that takes."""
    async with running(echo(0.5), slow_reader_timeout=0.1) as server, channel(server.target) as to:
        texts = [d.text async for d in ChatServiceStub(to).ChatStream(pb.ChatRequest(query="a b"))]

    assert "".join(texts) == "a b"


async def test_without_a_limit_nobody_is_slow() -> None:
    """With `--slow-reader-timeout 0` a stream waits for its reader."""
    engine = echo()
    async with running(engine, slow_reader_timeout=0) as server, channel(server.target) as to:
        call = ChatServiceStub(to).ChatStream(pb.ChatRequest(query=LARGE))
        await call.read()
        await asyncio.sleep(0.5)
        waiting = engine.unfinished
        call.cancel()

    assert waiting == 1
