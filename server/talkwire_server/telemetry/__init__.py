"""Who reads the journal: what the operator sees of the chats. Knows no sockets of callers.

chat_log.py   a line in the log for each
tracing.py    a span for each, by OpenTelemetry
"""

from collections.abc import Iterator

from talkwire_server.journal import Reader
from talkwire_server.settings import Settings
from talkwire_server.telemetry.chat_log import ChatLog


def readers(settings: Settings) -> Iterator[Reader]:
    """Make those that the settings want."""
    if settings.trace_exporters:  # first: the log names the span
        from talkwire_server.telemetry.tracing import Tracing

        yield Tracing(settings.trace_exporters)
    if settings.log_chats:
        yield ChatLog()
