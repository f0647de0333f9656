"""The port where Prometheus reads metrics: ours, vLLM's, and what the gate is like just now.

Of several processes the one that was started serves it, and reads what the others have counted in
files of `PROMETHEUS_MULTIPROC_DIR`.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import REGISTRY, CollectorRegistry, Metric, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from talkwire_server.admission import State
from talkwire_server.engine import StartError
from talkwire_server.settings import Settings

log = logging.getLogger("talkwire")

POLL = 0.05  # seconds for it to see that it shall end


class _Now(Collector):
    """Looks when it is asked, so that a process that died leaves nothing behind."""

    def __init__(self, settings: Settings, look: Callable[[], State]) -> None:
        self._settings = settings
        self._look = look

    def collect(self) -> Iterator[Metric]:
        now = self._look()
        for name, text, value in (
            ("chats_running", "Chats that are answered.", now.running),
            ("chats_waiting", "Chats that wait for a place.", now.waiting),
            ("places", "Answers that may be generated at once.", now.bounds.places),
            ("queue_places", "Chats that may wait.", now.bounds.queued),
            ("serving", "Whether chats are let in.", int(now.is_open)),
            ("frontends", "Processes that serve the port.", self._settings.frontends),
        ):
            yield GaugeMetricFamily(f"talkwire_{name}", text, value)
        info = GaugeMetricFamily("talkwire_build_info", "What it is.", labels=["version"])
        info.add_metric([version("talkwire")], 1)
        yield info


class MetricsPort:
    """An HTTP server for metrics, in a thread of its own.

    Args:
        settings: Those of the server, with a `metrics_port`.
        look: Says what the server does just now; called in that thread.

    """

    def __init__(self, settings: Settings, look: Callable[[], State]) -> None:
        self._settings = settings
        self._registry = CollectorRegistry()
        if settings.frontends > 1:
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
        else:
            self._registry.register(REGISTRY)
        self._registry.register(_Now(settings, look))
        self._server: _Server | None = None
        self.url = ""

    async def listen(self) -> None:
        """Open the socket. Raises `StartError` where that fails."""
        host, port = self._settings.metrics_host, self._settings.metrics_port
        assert port is not None
        try:
            # In a thread, because it looks up the host's name.
            server = await asyncio.to_thread(_Server, host, port)
        except OSError as error:
            text = f"cannot serve metrics on {host} port {port}: {error.strerror}"
            raise StartError(text) from None
        self._server = server
        server.set_app(_plain(self._registry))
        Thread(target=server.serve_forever, args=(POLL,), name="metrics", daemon=True).start()
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{server.server_port}/metrics"
        log.info("metrics on %s", self.url)
        if self._settings.observable:
            log.warning("%s", self._settings.observable)

    def forget(self, pid: int) -> None:
        """Have what a process that ended said of its present count no more; its counts stay."""
        mark_process_dead(pid)  # type: ignore[no-untyped-call]

    async def close(self) -> None:
        """Close the socket. Idempotent."""
        server, self._server = self._server, None
        if server:
            await asyncio.to_thread(server.shutdown)
            server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        found, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        self.address_family = found[0]
        super().__init__((host, port), _Silent)


class _Silent(WSGIRequestHandler):
    timeout = 10  # seconds, for who connects to say something

    def log_message(self, *_: object) -> None:
        """Leave the log to what matters."""


def _plain(registry: Collector) -> Callable[[dict[str, Any], Any], Iterable[bytes]]:
    """Serve the text format, whatever is asked for.

    As OpenMetrics prometheus_client (0.26) writes `vllm_` for `vllm:` (client_python#1177).
    """
    serve = make_wsgi_app(registry)
    return lambda environ, start: serve({**environ, "HTTP_ACCEPT": ""}, start)
