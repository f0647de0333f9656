"""Bytes that no client would send: the server serves on, and keeps its memory."""

import asyncio
import gzip
import os
import random
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import pytest

from fault_table import Table
from processes import ServerProcess, launched
from talkwire import AsyncClient

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\0\0\0\4\0\0\0\0\0"
# HPACK, literals without an index: what a gRPC client says at the start of a call.
HEADERS = {
    ":method": "POST",
    ":scheme": "http",
    ":path": "/talkwire.v1.ChatService/Chat",
    ":authority": "localhost",
    "content-type": "application/grpc",
    "te": "trailers",
}
MOST = 100  # MB that the server may grow by in an attack


@pytest.fixture(scope="module")
def process() -> Iterator[ServerProcess]:
    """An echo server in a process of its own, warm."""
    with launched() as process:
        assert process.target
        yield process


class Attack:
    """A connection to a server."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes; the server may have closed the connection by then."""
        with suppress(ConnectionError):
            self.writer.write(data)
            await self.writer.drain()


@pytest.fixture
async def attacks(process: ServerProcess) -> AsyncIterator[Any]:
    """Open connections, closed at the end of the test."""
    host, _, port = process.target.rpartition(":")
    opened: list[Attack] = []

    async def attack() -> Attack:
        _, writer = await asyncio.open_connection(host, int(port))
        made = Attack(writer)
        opened.append(made)
        return made

    yield attack
    for one in opened:
        one.writer.close()


@pytest.fixture
def report(table: Table) -> Callable[[str, int, int], None]:
    """Tell what an attack did to the server's memory, which must be little."""

    def tell(what: str, before: int, most: int) -> None:
        grown = most - before >= MOST
        table.add("bytes", what, 1, int(grown), f"{before} MB, at most {most} MB")
        assert not grown

    return tell


def resident(process: ServerProcess) -> int:
    """Say how many megabytes a server has in memory, and forget what it ever had."""
    folder = Path(f"/proc/{process.process.pid}")
    (folder / "clear_refs").write_text("5", encoding="ascii")
    text = (folder / "statm").read_text(encoding="ascii")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def peak(process: ServerProcess) -> int:
    """Say how many it had at most since then."""
    status = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


async def answers(process: ServerProcess) -> bool:
    """Tell whether the server serves."""
    async with AsyncClient(process.target) as client:
        return (await client.chat("still there", timeout=30)).text == "still there"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def headers(stream: int, **more: str) -> bytes:
    """Open a call."""
    block = b""
    for name, value in (HEADERS | {k.replace("_", "-"): v for k, v in more.items()}).items():
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return frame(1, 4, stream, block)


def data(stream: int, payload: bytes, *, end: bool) -> bytes:
    return frame(0, int(end), stream, payload)


async def test_noise(process: ServerProcess, attacks: Any, report: Any) -> None:
    """Random bytes, before and after a good preface."""
    chance = random.Random(1)  # the same noise every time
    before = resident(process)
    for i in range(300):
        one = await attacks()
        await one.send((PREFACE + SETTINGS) * (i % 2) + chance.randbytes(chance.randrange(1, 4096)))

    assert await answers(process)
    report("noise on 300 connections", before, peak(process))


async def test_broken_frames(process: ServerProcess, attacks: Any, report: Any) -> None:
    """Frames of every kind with random flags, streams and payloads, and bits of a good call."""
    chance = random.Random(2)
    good = headers(1) + data(1, b"\0\0\0\0\4\n\2hi", end=True)
    before = resident(process)
    for _ in range(300):
        one = await attacks()
        frames = b"".join(
            frame(
                chance.randrange(12),
                chance.randrange(256),
                chance.randrange(5),
                chance.randbytes(9),
            )
            for _ in range(20)
        )
        flipped = bytearray(good)
        flipped[chance.randrange(len(good))] ^= 1 << chance.randrange(8)
        await one.send(PREFACE + SETTINGS + (frames if chance.random() < 0.5 else bytes(flipped)))

    assert await answers(process)
    report("6,000 broken frames", before, peak(process))


async def test_a_method_that_is_no_text(process: ServerProcess, attacks: Any) -> None:
    """It is an unknown one; grpc.aio's own server would be gone. An unknown one is told so."""
    one = await attacks()
    await one.send(PREFACE + SETTINGS + headers(1).replace(b"/talkwire", b"/t\xffkwire"))

    assert await answers(process)
    async with grpc.aio.insecure_channel(process.target) as channel:
        call: Any = channel.unary_unary("/talkwire.v1.ChatService/Sing", bytes, bytes)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_half_a_preface(process: ServerProcess, attacks: Any, report: Any) -> None:
    """Two hundred connections that stop in the middle of it keep nobody out, and cost little."""
    before = resident(process)
    for i in range(200):
        await (await attacks()).send(PREFACE[: i % len(PREFACE)])

    assert await answers(process)
    report("200 halves of a preface", before, peak(process))


async def test_dribbled_headers(process: ServerProcess, attacks: Any, report: Any) -> None:
    """A call whose headers come byte by byte, on a hundred connections, keeps nobody out."""
    before = resident(process)
    calls = [await attacks() for _ in range(100)]
    for one in calls:
        await one.send(PREFACE + SETTINGS)
    for byte in headers(1)[:40]:
        for one in calls:
            await one.send(bytes([byte]))

    assert await answers(process)
    report("100 dribbled headers", before, peak(process))


async def test_endless_headers(process: ServerProcess, attacks: Any, report: Any) -> None:
    """Continuation frames without an end: the server hangs up, or throws them away."""
    before = resident(process)
    one = await attacks()
    await one.send(PREFACE + SETTINGS + frame(1, 0, 1, b"\0\1a\1b"))
    for _ in range(4000):
        await one.send(frame(9, 0, 1, (b"\0\1a\x64" + b"b" * 100) * 157))

    assert await answers(process)
    report("64 MB of headers", before, peak(process))


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_small_message_that_unpacks_to_a_large_one(
    process: ServerProcess, attacks: Any, report: Any, encoding: str
) -> None:
    """It is refused at the size that a request may have, on thirty connections at once."""
    zeros = bytes(55 << 20)
    packed = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    message = b"\1" + len(packed).to_bytes(4) + packed
    before = resident(process)
    for _ in range(30):
        one = await attacks()
        await one.send(PREFACE + SETTINGS + headers(1, grpc_encoding=encoding))
        for at in range(0, len(message), 16_384):
            part = message[at : at + 16_384]
            await one.send(data(1, part, end=at + 16_384 >= len(message)))

    assert len(message) < 65_535  # all that may be sent before the server says more
    assert await answers(process)
    report(f"30 times 55 MB as {len(packed) >> 10} KB of {encoding}", before, peak(process))


async def test_messages_of_a_million_fields(process: ServerProcess, report: Any) -> None:
    """Eight million empty messages of a conversation would be a gigabyte."""
    before = resident(process)
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(process.target, options=options) as channel:
        call: Any = channel.unary_unary("/talkwire.v1.ChatService/Chat", bytes, bytes)
        for payload in (b"\x12\0" * (8 << 20), b"\x0b" * (16 << 20), b"\xff" * (16 << 20)):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(payload[: (16 << 20) - 64])
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"\xff" * (17 << 20))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await answers(process)
    report("millions of fields", before, peak(process))
