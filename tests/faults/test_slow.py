"""Clients that say nothing, read nothing or vanish: what they cost, and when they are found.

`TALKWIRE_FAULTS=full` takes 1,000 connections and 500 streams instead of a tenth.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import grpc

from fault_table import Table
from network import HOST, INSIDE, network, part
from processes import launched
from talkwire import AsyncClient, RequestIdInUse, Timeout
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub

FULL = os.environ.get("TALKWIRE_FAULTS") == "full"
CONNECTIONS, STREAMS = (1000, 500) if FULL else (100, 50)

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # and empty SETTINGS

# 4 KB to ask, and far more than a window of 64 KiB to answer.
LARGE = pb.ChatRequest(query=" ".join(["x" * 1000] * 4), n=32)
FLAGS = ("--slow-reader-timeout=10", "--grace=100", "--max-running-requests=16000")


def resident(pid: int) -> float:
    """Memory of a process, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def processor(pid: int) -> int:
    """Time that a process has computed, in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


async def rest(pid: int) -> None:
    """Wait until a process has next to nothing to do."""
    ticks, before = 1000, 0
    while ticks > 5:
        await asyncio.sleep(1)
        now = processor(pid)
        ticks, before = now - before, now


def idle(target: str) -> socket.socket:
    """Connect, begin HTTP/2 and say no more."""
    host, _, port = target.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(HELLO)
    assert connection.recv(9)
    return connection


async def test_memory_is_bounded_whatever_clients_do(table: Table) -> None:
    """Idle connections and streams that nobody reads cost little, and the streams are cut."""
    with launched(*FLAGS) as server, ExitStack() as stack:
        target, pid = server.target, server.process.pid
        async with AsyncClient(target) as client:
            await client.chat("hi")
        figures = [resident(pid)]
        for _ in range(CONNECTIONS):
            stack.enter_context(await asyncio.to_thread(idle, target))
        figures.append(resident(pid))
        fixed_window = (("grpc.http2.bdp_probe", 0),)
        async with grpc.aio.insecure_channel(target, options=fixed_window) as channel:
            stub = ChatServiceStub(channel)
            calls = [stub.ChatStream(LARGE) for _ in range(STREAMS)]
            await asyncio.gather(*(call.initial_metadata() for call in calls))
            await rest(pid)
            figures.append(resident(pid))
            server.signal(signal.SIGTERM)
            status, log = await asyncio.to_thread(server.ends)

    before, connected, stalled = figures
    cut = log.count("its client reads nothing")
    seen = f"{connected - before:.1f} MB and {stalled - connected:.1f} MB; target 200 MB"
    done = f"{CONNECTIONS} that say nothing, {STREAMS} that read nothing"
    table.add("silent clients", done, CONNECTIONS + STREAMS, STREAMS - cut, seen)
    assert cut == STREAMS
    assert status == 0
    assert stalled - before < 200


# Half-open

PROGRAM = """
import sys, grpc
from talkwire_proto.v1 import chat_pb2 as pb, chat_pb2_grpc
with grpc.insecure_channel(sys.argv[1]) as channel:
    request = pb.ChatRequest(query="word " * 4000, request_id="far")
    call = chat_pb2_grpc.ChatServiceStub(channel).ChatStream(request)
    call.initial_metadata()
    print("admitted", flush=True)
    for delta in call:
        pass
"""


@contextmanager
def far(target: str) -> Iterator[None]:
    """Keep the call `far` running, from the namespace."""
    command = [*INSIDE, sys.executable, "-c", PROGRAM, target]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield
        process.kill()


async def gone(target: str) -> float:
    """Wait until the call `far` has ended; return when."""
    async with AsyncClient(target, retry=None) as client:
        while True:
            try:
                await client.chat("hi", request_id="far", timeout=0.5)
            except RequestIdInUse:
                await asyncio.sleep(0.1)
            except Timeout:
                return monotonic()
            else:
                return monotonic()


async def test_a_client_that_vanishes_is_found_within_45_seconds(table: Table) -> None:
    """Where no packet says so, too: in the midst of an answer, and while the first word is due."""
    flags = (f"--host={HOST}", "--allow-insecure")
    with (
        network(),
        launched(*flags, "--echo-delay=0.05") as sending,
        launched(*flags, "--echo-delay=3600") as waiting,
        ExitStack() as stack,
    ):
        targets = [sending.target, waiting.target]
        for target in targets:
            stack.enter_context(far(target))
        begin = monotonic()
        part()
        ends = await asyncio.gather(*map(gone, targets))
    seconds = [end - begin for end in ends]

    for what, late in zip(("amid an answer", "before its first word"), seconds, strict=True):
        table.add("half-open", what, 1, int(late >= 45), f"found after {late:.1f} s; target 45 s")
    assert max(seconds) < 45
