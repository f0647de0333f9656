"""A real Envoy before servers, as deploy/envoy configures it but for addresses."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import yaml

from processes import ROOT

CONFIG = ROOT / "deploy/envoy/envoy.yaml"
DESCRIPTORS = ROOT / "generated/talkwire.binpb"
ENVOY = Path(sys.executable).with_name("envoy")


class Proxy:
    """An Envoy that runs."""

    def __init__(self, admin: str) -> None:
        self.admin = httpx.Client(base_url=f"http://{admin}", trust_env=False)
        (listener,) = self.admin.get("/listeners?format=json").json()["listener_statuses"]
        self.target = f"127.0.0.1:{listener['local_address']['socket_address']['port_value']}"
        self.url = f"http://{self.target}"
        self.web = httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def close(self) -> None:
        """Close the connections to it."""
        self.admin.close()
        self.web.close()

    def stat(self, name: str) -> int:
        """Read a counter or gauge."""
        (line,) = self.admin.get("/stats", params={"filter": f"^{name}$"}).text.splitlines()
        return int(line.partition(": ")[2])

    def wait(self, name: str, until: Callable[[int], bool] = bool) -> None:
        """Wait until a counter counts, or until what is asked of it."""
        while not until(self.stat(name)):
            time.sleep(0.01)

    def has_healthy(self, count: int) -> None:
        """Wait until Envoy takes so many servers, in each cluster, for healthy."""
        for cluster in ("fewest", "session"):
            self.wait(f"cluster.{cluster}.membership_healthy", lambda seen: seen == count)


def config(*servers: str) -> Any:
    """Return what is shipped, before servers of a test, and listening on free ports."""
    made = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    made["admin"]["address"]["socket_address"]["port_value"] = 0
    (listener,) = made["static_resources"]["listeners"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    for one in manager(made)["http_filters"]:
        if one["name"].endswith("json_transcoder"):
            assert Path(one["typed_config"]["proto_descriptor"]).name == DESCRIPTORS.name
            one["typed_config"]["proto_descriptor"] = str(DESCRIPTORS)
    for cluster in made["static_resources"]["clusters"]:
        (locality,) = cluster["load_assignment"]["endpoints"]
        locality["lb_endpoints"] = [_endpoint(server) for server in servers]
    return made


def manager(config: Any) -> Any:
    """Return what a configuration says of HTTP."""
    (listener,) = config["static_resources"]["listeners"]
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def _endpoint(server: str) -> dict[str, Any]:
    host, _, port = server.rpartition(":")
    return {"endpoint": {"address": {"socket_address": {"address": host, "port_value": int(port)}}}}


@contextmanager
def proxied(
    *servers: str, change: Callable[[Any], None] | None = None, healthy: int | None = None
) -> Iterator[Proxy]:
    """Run Envoy before servers, on a changed configuration if asked, for the length of the block.

    It begins when so many are healthy, by default all.
    """
    made = config(*servers)
    if change:
        change(made)
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "envoy.yaml").write_text(yaml.safe_dump(made), encoding="utf-8")
        flags = "-c envoy.yaml --admin-address-path admin --disable-hot-restart --concurrency 2"
        with (
            (folder / "log").open("w") as log,
            subprocess.Popen(
                [ENVOY, *flags.split()], cwd=folder, stdin=subprocess.DEVNULL, stderr=log
            ) as process,
        ):
            try:
                with closing(Proxy(_admin(folder, process))) as proxy:
                    proxy.has_healthy(len(servers) if healthy is None else healthy)
                    yield proxy
                assert process.poll() is None, (folder / "log").read_text(encoding="utf-8")
            finally:
                process.kill()


@asynccontextmanager
async def before(*targets: str, **options: Any) -> AsyncIterator[Proxy]:
    """Run Envoy before servers that live in this process, and must answer its health checks."""
    proxy = proxied(*targets, **options)
    running = await asyncio.to_thread(proxy.__enter__)
    try:
        yield running
    finally:
        await asyncio.to_thread(proxy.__exit__, None, None, None)


def _admin(folder: Path, process: subprocess.Popen[bytes]) -> str:
    """Wait until Envoy serves; return where it takes questions about itself."""
    file = folder / "admin"
    while process.poll() is None:
        admin = file.read_text(encoding="utf-8") if file.exists() else ""
        if admin and httpx.get(f"http://{admin}/ready", trust_env=False).text == "LIVE\n":
            return admin
        time.sleep(0.02)
    raise AssertionError((folder / "log").read_text(encoding="utf-8"))
