"""What the kernel says: CPU time and memory of processes, bytes of connections. Starts nothing."""

import os
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path

_TICK = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGESIZE")
_ENGINE = re.compile(rb"VLLM::(EngineCore|Worker)")
_BYTES_RECEIVED = struct.Struct("=128xQ")  # in struct tcp_info


def session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, its_session, *_ = _stat(int(entry.name))
            if int(its_session) == leader and state != "Z":
                found.append(int(entry.name))
    return found


def is_engine(pid: int) -> bool:
    """Tell whether a process is one of vLLM's that compute; they name themselves."""
    with suppress(OSError):
        return bool(_ENGINE.search(Path(f"/proc/{pid}/cmdline").read_bytes()))
    return False


def cpu(pid: int) -> float:
    """Return the seconds that all threads of a process have computed."""
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / _TICK


def resident(pid: int) -> float:
    """Return the memory that a process holds, MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / 1e6


def received(port: int) -> dict[str, int]:
    """Return the bytes that came in over each TCP connection of this process to a port.

    It is the payload of TCP with all framing in it; gRPC hides its sockets, the kernel does not.
    """
    counted = {}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            inode = str(entry.readlink())
            if not inode.startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry.name))) as connection:
                if connection.family != socket.AF_UNIX and connection.getpeername()[1] == port:
                    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
                    (counted[inode],) = _BYTES_RECEIVED.unpack(info)
    return counted


def _stat(pid: int) -> list[str]:
    """Return the fields of a process's stat after its name; the first is its state."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
