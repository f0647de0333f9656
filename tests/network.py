"""A network of this machine and a namespace of it, which can lose all packets. Knows no gRPC."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

HOST, PEER = "10.213.57.1", "10.213.57.2"
NAME = f"talkwire-{os.getpid()}"
INSIDE = ("ip", "netns", "exec", NAME)  # and a command


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def network() -> Iterator[None]:
    """Make it for the length of the block, or skip the test."""
    if not shutil.which("ip"):
        pytest.skip("needs the command ip")
    try:
        ip("netns", "add", NAME)
    except subprocess.CalledProcessError:
        pytest.skip("may not make a network namespace")
    subprocess.run(["ip", "link", "delete", "talkwire0"], capture_output=True)  # of a killed run
    try:
        ip("link", "add", "talkwire0", "type", "veth", "peer", "name", "talkwire1", "netns", NAME)
        for where, address, device in (((), HOST, "talkwire0"), (("-n", NAME), PEER, "talkwire1")):
            ip(*where, "address", "add", f"{address}/30", "dev", device)
            ip(*where, "link", "set", device, "up")
        yield
    finally:
        ip("netns", "delete", NAME)  # and with it both ends of the link


def part() -> None:
    """Lose whatever either side sends: each believes the other at an address that nobody has."""
    nobody = ("lladdr", "02:00:00:00:00:01", "nud", "permanent")
    ip("neighbour", "replace", PEER, *nobody, "dev", "talkwire0")
    ip("-n", NAME, "neighbour", "replace", HOST, *nobody, "dev", "talkwire1")


def join() -> None:
    """Lose nothing any more."""
    ip("neighbour", "delete", PEER, "dev", "talkwire0")
    ip("-n", NAME, "neighbour", "delete", HOST, "dev", "talkwire1")
