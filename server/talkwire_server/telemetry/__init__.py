"""Who reads the journal: what the operator sees of the chats. Knows no sockets of callers.

chat_log.py       a line in the log for each
tracing.py        a span for each, by OpenTelemetry
chat_metrics.py   counts of them, for Prometheus
call_metrics.py   counts of rpcs and messages, whatever they carry
metrics_port.py   where Prometheus reads all these
"""

import atexit
import os
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from talkwire_server.admission import State
from talkwire_server.journal import Reader
from talkwire_server.settings import Settings
from talkwire_server.telemetry.chat_log import ChatLog

if TYPE_CHECKING:
    from talkwire_server.telemetry.call_metrics import CallMetrics
    from talkwire_server.telemetry.metrics_port import MetricsPort


def readers(settings: Settings) -> Iterator[Reader]:
    """Make those that the settings want."""
    if settings.trace_exporters:  # first: the log names the span
        from talkwire_server.telemetry.tracing import Tracing

        yield Tracing(settings.trace_exporters)
    if settings.log_chats:
        yield ChatLog()
    if settings.metrics_port is not None:
        from talkwire_server.telemetry.chat_metrics import ChatMetrics

        yield ChatMetrics(settings.metrics_callers)


def call_metrics(settings: Settings) -> "list[CallMetrics]":
    """Make the interceptor that counts calls, if it is wanted."""
    if settings.metrics_port is None:
        return []
    from talkwire_server.telemetry.call_metrics import CallMetrics

    return [CallMetrics()]


def metrics_port(settings: Settings, look: Callable[[], State]) -> "MetricsPort | None":
    """Make the port where metrics are read, if it is wanted; see there."""
    if settings.metrics_port is None:
        return None
    from talkwire_server.telemetry.metrics_port import MetricsPort

    return MetricsPort(settings, look)


def prepare_metrics(settings: Settings) -> None:
    """Say how metrics are kept, before anything imports prometheus_client.

    Hence it is imported nowhere but where they are wanted.
    """
    if settings.metrics_port is None:
        return
    # A second series for each, which several processes do not have.
    os.environ.setdefault("PROMETHEUS_DISABLE_CREATED_SERIES", "true")
    if settings.frontends > 1:  # then in files, to be added up
        folder = TemporaryDirectory(prefix="talkwire-metrics-")
        atexit.register(folder.cleanup)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder.name
