"""Clients that say nothing, read nothing or vanish: what they cost, and when they are found.

`TALKWIRE_FAULTS=full` takes 1,000 connections and 500 streams instead of a tenth.
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

import grpc
import pytest

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


async def test_memory_is_bounded_whatever_clients_do() -> None:
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
    sys.stdout.write(f"{CONNECTIONS} idle connections: {connected - before:.1f} MB; ")
    sys.stdout.write(f"{STREAMS} stalled streams: {stalled - connected:.1f} MB\n")
    assert log.count("its client reads nothing") == STREAMS
    assert status == 0
    assert stalled - before < 200


# Half-open

HOST, PEER = "10.213.57.1", "10.213.57.2"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[str]:
    """Make a network of this machine and a namespace; yield the namespace's name."""
    name = f"talkwire-{os.getpid()}"
    if not shutil.which("ip"):
        pytest.skip("needs the command ip")
    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("may not make a network namespace")
    subprocess.run(["ip", "link", "delete", "talkwire0"], capture_output=True)  # of a killed run
    try:
        ip("link", "add", "talkwire0", "type", "veth", "peer", "name", "talkwire1", "netns", name)
        for where, address, device in (((), HOST, "talkwire0"), (("-n", name), PEER, "talkwire1")):
            ip(*where, "address", "add", f"{address}/30", "dev", device)
            ip(*where, "link", "set", device, "up")
        yield name
    finally:
        ip("netns", "delete", name)  # and with it both ends of the link


def part(name: str) -> None:
    """Lose whatever either side sends: each believes the other at an address that nobody has."""
    nobody = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
    ip("neighbour", "replace", PEER, *nobody, "dev", "talkwire0")
    ip("-n", name, "neighbour", "replace", HOST, *nobody, "dev", "talkwire1")


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
def far(name: str, target: str) -> Iterator[None]:
    """Keep the call `far` running, from the namespace."""
    command = ["ip", "netns", "exec", name, sys.executable, "-c", PROGRAM, target]
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


async def test_a_client_that_vanishes_is_found_within_45_seconds() -> None:
    """Where no packet says so, too: in the midst of an answer, and while the first word is due."""
    flags = (f"--host={HOST}", "--allow-insecure")
    with (
        network() as name,
        launched(*flags, "--echo-delay=0.05") as sending,
        launched(*flags, "--echo-delay=3600") as waiting,
        ExitStack() as stack,
    ):
        targets = [sending.target, waiting.target]
        for target in targets:
            stack.enter_context(far(name, target))
        begin = monotonic()
        part(name)
        ends = await asyncio.gather(*map(gone, targets))
    seconds = [end - begin for end in ends]

    sys.stdout.write(f"half-open: ended after {seconds[0]:.1f} s amid an answer, ")
    sys.stdout.write(f"{seconds[1]:.1f} s while nothing was sent\n")
    assert max(seconds) < 45
