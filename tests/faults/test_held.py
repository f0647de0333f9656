"""What a peer can make the server hold: halves of requests, answers that it does not take."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
import pytest

from processes import ServerProcess, launched
from support import running
from talkwire import AsyncClient
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.echo import EchoEngine

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, WINDOW = 0, 1, 3, 4, 6, 8
WINDOW_SIZE, MOST_STREAMS = 4, 3
CHAT, COUNT = "/talkwire.v1.ChatService/Chat", "/talkwire.v1.ChatService/CountTokens"
STREAM, WATCH = "/talkwire.v1.ChatService/ChatStream", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LARGEST = (16 << 20) - 64


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def headers(method: str) -> bytes:
    """Open a call, in literals of HPACK."""
    said = {":method": "POST", ":scheme": "http", ":path": method, ":authority": "localhost"}
    said |= {"content-type": "application/grpc", "te": "trailers"}
    return b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in said.items()
    )


def message(payload: bytes) -> bytes:
    return b"\0" + len(payload).to_bytes(4) + payload


class Peer:
    """A connection that keeps to HTTP/2, and does with it what no client of gRPC would.

    Attributes:
        ended: The streams that the server has ended.
        settings: What the server said of itself.
        sent: Bytes of the last call.

    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._opened = -1
        self._initial = 65_535
        self._windows = {0: 65_535}
        self._moved = asyncio.Event()
        self.sent = 0
        self.settings: dict[int, int] = {}
        self.ended: set[int] = set()
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def connect(cls, target: str, window: int = 65_535) -> "Peer":
        """Connect; what the server sends has a window a stream."""
        host, _, port = target.rpartition(":")
        peer = cls(*await asyncio.open_connection(host, int(port)))
        setting = WINDOW_SIZE.to_bytes(2) + window.to_bytes(4)
        peer._writer.write(PREFACE + frame(SETTINGS, 0, 0, setting))
        while not peer.settings:
            await peer._move()
        return peer

    async def call(self, method: str, body: bytes, *, end: bool = True) -> int:
        """Open a stream, and send a body as fast as the server takes it."""
        self._opened += 2
        stream, self.sent = self._opened, 0
        self._windows[stream] = self._initial
        self._writer.write(frame(HEADERS, 4, stream, headers(method)))
        while self.sent < len(body) and stream not in self.ended:
            part = body[self.sent : self.sent + 16_384]
            part = part[: max(0, min(self._windows[0], self._windows[stream]))]
            if not part:
                await self._move()
                continue
            for counted in (0, stream):
                self._windows[counted] -= len(part)
            self.sent += len(part)
            last = end and self.sent == len(body)
            self._writer.write(frame(DATA, int(last), stream, part))
            await self._writer.drain()
        return stream

    def close(self) -> None:
        self._reading.cancel()
        self._writer.close()

    async def _move(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    async def _read(self) -> None:
        while True:
            head = await self._reader.readexactly(9)
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:])
            self._take(
                kind, flags, stream, await self._reader.readexactly(int.from_bytes(head[:3]))
            )
            self._moved.set()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == SETTINGS and not flags:
            for at in range(0, len(payload), 6):
                self._set(
                    int.from_bytes(payload[at : at + 2]), int.from_bytes(payload[at + 2 : at + 6])
                )
            self._writer.write(frame(SETTINGS, 1, 0))
        elif kind == PING and not flags:
            self._writer.write(frame(PING, 1, 0, payload))
        elif kind == WINDOW:
            self._windows[stream] += int.from_bytes(payload)
        elif kind == RESET or (kind in (DATA, HEADERS) and flags & 1):
            self.ended.add(stream)

    def _set(self, name: int, value: int) -> None:
        self.settings[name] = value
        if name == WINDOW_SIZE:
            for stream in self._windows.keys() - {0}:
                self._windows[stream] += value - self._initial
            self._initial = value


@pytest.fixture
async def peers() -> AsyncIterator[Any]:
    """Connect peers, which are gone at the end of the test."""
    connected: list[Peer] = []

    async def connect(target: str, window: int = 65_535) -> Peer:
        connected.append(await Peer.connect(target, window))
        return connected[-1]

    yield connect
    for peer in connected:
        peer.close()


def resident(server: ServerProcess) -> int:
    """Say how many megabytes a server has in memory."""
    text = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii")
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


async def serves(server: ServerProcess) -> bool:
    """Tell whether others are served."""
    async with AsyncClient(server.target) as client:
        return (await client.chat("still there", timeout=30)).text == "still there"


async def gone(server: ServerProcess, peer: Peer, *streams: int) -> None:
    """Wait until the server has ended streams, and serves others meanwhile.

    Which it must: of the call that came last gRPC keeps something until the next one comes.
    """
    while not peer.ended.issuperset(streams):
        assert await serves(server)
        await asyncio.sleep(0.1)


def report(what: str, before: int, after: int) -> None:
    sys.stdout.write(f"{what}: {before} MB, then {after} MB\n")


@pytest.mark.parametrize("method", [CHAT, STREAM, COUNT, WATCH])
async def test_a_request_that_does_not_arrive(peers: Any, method: str) -> None:
    """It ends `--request-timeout` after its headers, whatever is called; others are served."""
    with launched("--request-timeout=1") as server:
        peer = await peers(server.target)
        begun = monotonic()
        half = await peer.call(method, message(bytes(LARGEST))[:-1], end=False)
        nothing = await peer.call(method, b"", end=False)
        await gone(server, peer, half, nothing)

    assert monotonic() - begun >= 1


async def test_many_requests_that_do_not_arrive(peers: Any) -> None:
    """Whoever has most of them loses the oldest; of a gigabyte of halves little is kept."""
    with launched("--request-timeout=100", "--max-slow-calls=4") as server:
        assert await serves(server)
        before = resident(server)
        for _ in range(10):
            peer = await peers(server.target)
            for _ in range(7):
                await peer.call(CHAT, message(bytes(LARGEST))[:-1], end=False)
                await asyncio.sleep(0.1)
            assert await serves(server)
        after = resident(server)

    report("70 halves of 16 MB on 10 connections", before, after)
    assert after - before < 600


async def test_more_than_was_asked_for(peers: Any) -> None:
    """What follows a request is not taken, however long its answer takes."""
    with launched("--echo-delay=3600") as server:
        peer = await peers(server.target)
        request = message(pb.ChatRequest(query="hi").SerializeToString())
        before = resident(server)
        taken = 0
        for _ in range(50):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await peer.call(STREAM, request + bytes(LARGEST), end=False)
            taken += peer.sent
        after = resident(server)

    report("50 streams with 16 MB too many", before, after)
    assert taken < 50 * (256 << 10)


@pytest.mark.parametrize("method", [CHAT, STREAM, COUNT])
async def test_an_answer_that_nobody_takes(peers: Any, method: str) -> None:
    """It ends after `--slow-reader-timeout`, unary or not, and nothing of it is kept."""
    with launched("--slow-reader-timeout=0.5") as server:
        peer = await peers(server.target, window=0)
        chat = pb.ChatRequest(query="word " * 1000)
        counted = pb.CountTokensRequest(request=chat, include_prompt=True)
        request = counted if method == COUNT else chat
        stream = await peer.call(method, message(request.SerializeToString()))
        await gone(server, peer, stream)


async def test_many_answers_that_nobody_takes(peers: Any) -> None:
    """A few are kept, and the oldest goes for the next."""
    chat = pb.ChatRequest(query="word " * 400_000)
    request = message(pb.CountTokensRequest(request=chat, include_prompt=True).SerializeToString())
    with launched("--slow-reader-timeout=100", "--max-slow-calls=4") as server:
        peer = await peers(server.target, window=0)
        before = resident(server)
        streams = []
        for _ in range(60):
            streams.append(await peer.call(COUNT, request))
            await asyncio.sleep(0.1)
        await gone(server, peer, *streams[:40])
        after = resident(server)

    report("60 answers of 2 MB", before, after)
    assert after - before < 300


async def test_who_watches_health_and_takes_nothing_of_it(peers: Any) -> None:
    """The server ends all the same (with grpcio's own health it never did)."""
    with launched() as server:
        peer = await peers(server.target, window=0)
        await peer.call(WATCH, message(b""))
        assert await serves(server)
        server.signal(signal.SIGTERM)
        status, _ = await asyncio.to_thread(server.ends)

    assert status == 0


async def test_a_connection_has_a_bound_of_streams(peers: Any) -> None:
    """The server tells it: twice what may be inside, 1,000 at least, or as the flag says."""
    told = []
    many, few = (f"--max-running-requests={places}" for places in (1000, 10))
    for flag in (many, few, "--max-concurrent-streams=7"):
        with launched(flag, "--max-queued-requests=400") as server:
            peer = await peers(server.target)
            told.append(peer.settings[MOST_STREAMS])

    assert told == [2 * (1000 + 400), 1000, 7]


async def test_what_is_no_message_of_others_services(caplog: pytest.LogCaptureFixture) -> None:
    """Health names its fault, reflection ends; neither tells of Python, nor fills the log."""
    told = []
    async with (
        running(EchoEngine(["echo"], "", 0)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        for method in ("Check", "Watch"):
            call: Any = channel.unary_unary(f"/grpc.health.v1.Health/{method}", bytes, bytes)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call(b"\xff")
            told.append((refused.value.code(), refused.value.details()))
        stream: Any = channel.stream_stream(REFLECTION, bytes, bytes)
        answers = [answer async for answer in stream(iter([b"\xff"]))]

    words = "request: is not a protobuf message"
    assert told == [(grpc.StatusCode.INVALID_ARGUMENT, words)] * 2
    assert answers == []
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_the_health_of_a_service_that_is_none(caplog: pytest.LogCaptureFixture) -> None:
    """It is NOT_FOUND, as the protocol has it, and anybody may ask; that fills no log."""
    async with (
        running(EchoEngine(["echo"], "", 0)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        check: Any = channel.unary_unary("/grpc.health.v1.Health/Check", bytes, bytes)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await check(b"\n\4none")

    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
