"""A line in the log for each chat that ended. Holds nothing of what anybody wrote."""

import logging
from collections.abc import Iterator
from typing import Any

from talkwire_server.journal import Entry

log = logging.getLogger("talkwire")


class ChatLog:
    """See `talkwire_server.journal.Reader` for the contract."""

    def begin(self, entry: Entry) -> None:
        """Wait for its end."""

    def close(self) -> None:
        """Nothing is kept."""

    def end(self, entry: Entry) -> None:
        """Write the line: seconds are counted from the request's arrival."""
        if log.isEnabledFor(logging.INFO):
            log.info("chat ended", extra={"fields": dict(_fields(entry))})


def _fields(entry: Entry) -> Iterator[tuple[str, Any]]:
    yield "id", entry.id
    yield "rpc", entry.rpc
    yield "caller", entry.caller
    if entry.trace_id:
        yield "trace_id", entry.trace_id
        yield "span_id", entry.span_id
    if entry.call:
        yield "model", entry.call.model
    yield "status", entry.code.name
    if entry.reason:
        yield "reason", entry.reason
    if entry.finish_reason:
        yield "finish_reason", entry.finish_reason
    yield from _spent(entry)
    yield "total", round(entry.ended - entry.arrival, 4)


def _spent(entry: Entry) -> Iterator[tuple[str, Any]]:
    call = entry.call
    if call is None:
        return
    if call.last is None:  # nobody was told what it took
        yield "tokens", call.used
        yield "queue", round(call.waited, 4)
        return
    usage, timing = call.last.usage, call.last.timing
    yield "prompt_tokens", usage.prompt_tokens
    yield "cached_tokens", usage.cached_tokens
    yield "completion_tokens", usage.completion_tokens
    yield "queue", timing.queue.ToMicroseconds() / 1e6
    yield "first_token", timing.first_token.ToMicroseconds() / 1e6
