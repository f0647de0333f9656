"""The server's log: what happened, and in which lines of code, but not what anybody wrote."""

import asyncio
import logging
import sys
import traceback
from time import monotonic
from typing import Any

log = logging.getLogger("talkwire")

_FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"


class Discreet(logging.Formatter):
    """Writes exceptions down without their texts, which quote requests: kinds and stacks alone."""

    def formatException(self, ei: object) -> str:
        """Write an exception down, and those that led to it."""
        error = ei[1] if isinstance(ei, tuple) else None
        told: list[str] = []
        while isinstance(error, BaseException):
            stack = "".join(traceback.format_tb(error.__traceback__))
            told.insert(0, f"{stack}{type(error).__module__}.{type(error).__qualname__}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "\nwhich led to\n".join(told)


def _is_quotation(record: logging.LogRecord) -> bool:
    """Tell whether gRPC quotes metadata that it cannot decode: maybe a token."""
    return record.name == "grpc._cython.cygrpc" and str(record.msg).startswith("Invalid encoding")


def start_logging(level: str, *, texts: bool) -> None:
    """Have all log lines go to standard error; exceptions' texts only with `texts`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT) if texts else Discreet(_FORMAT))
    if not texts:
        handler.addFilter(lambda record: not _is_quotation(record))
    logging.basicConfig(level=level.upper(), handlers=[handler])


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
