"""The server's log: what happened, and in which lines of code, but not what anybody wrote."""

import asyncio
import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from talkwire_server.settings.logs import LogSettings

log = logging.getLogger("talkwire")

_FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"


class Lines(logging.Formatter):
    """Writes a record as a line for people; what it has as `fields` follows as `name=value`.

    Exceptions go without their texts, which quote requests, unless those are wanted: kinds and
    stacks alone.
    """

    def __init__(self, *, texts: bool) -> None:
        super().__init__(_FORMAT)
        self._texts = texts

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Write the line without what failed."""
        said = "".join(f" {name}={value}" for name, value in fields_of(record).items())
        return super().formatMessage(record) + said

    def formatException(self, ei: Any) -> str:
        """Write an exception down, and those that led to it."""
        if self._texts:
            return super().formatException(ei)
        error = ei[1] if isinstance(ei, tuple) else None
        told: list[str] = []
        while isinstance(error, BaseException):
            stack = "".join(traceback.format_tb(error.__traceback__))
            told.insert(0, f"{stack}{type(error).__module__}.{type(error).__qualname__}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nwhich led to\n".join(told)


class JsonLines(Lines):
    """Writes a record as one line of JSON for machines; its `fields` are members of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the whole record."""
        said = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps(said, ensure_ascii=False, default=str)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record was given as `extra={"fields": …}`."""
    fields: dict[str, Any] = getattr(record, "fields", {})
    return fields


def _is_quotation(record: logging.LogRecord) -> bool:
    """Tell whether a caller's metadata are quoted: gRPC cannot decode them, maybe a token.

    OpenTelemetry quotes a tracestate that it does not like, and its own variables' headers.
    """
    if record.name in ("opentelemetry.trace.span", "opentelemetry.util.re"):
        return True
    return record.name == "grpc._cython.cygrpc" and str(record.msg).startswith("Invalid encoding")


def start_logging(settings: LogSettings) -> None:
    """Have all log lines, vLLM's among them, go to standard error."""
    kind = JsonLines if settings.log_format == "json" else Lines
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(kind(texts=settings.log_texts))
    if not settings.log_texts:
        handler.addFilter(lambda record: not _is_quotation(record))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])


def log_unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log what nobody caught, for an event loop whose own words quote exceptions and arguments."""
    log.error("%s", context["message"].partition("(")[0], exc_info=context.get("exception"))


class Seldom:
    """Counts what is told once a second at most: nobody shall fill the disk."""

    def __init__(self) -> None:
        self._count = 0
        self._told = float("-inf")

    def due(self) -> int:
        """Count one more; return how many there were if that is to be told, else 0."""
        self._count += 1
        if monotonic() - self._told < 1:
            return 0
        self._told = monotonic()
        return self._count
