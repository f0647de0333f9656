"""Metrics of chats, counted as each ends. Knows no gRPC server: a chat is whatever the journal has.

No label is a caller's to choose: models are the operator's, callers only those that it named.
"""

from collections.abc import Collection
from functools import cache
from typing import TypeVar

import grpc
from prometheus_client import Counter, Histogram

from talkwire_server.journal import Entry
from talkwire_server.settings.metrics import OTHERS

M = TypeVar("M", Counter, Histogram)

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)

CHATS = Counter("talkwire_chats", "Chats that ended.", ["rpc", "code", "reason"])
FINISHED = Counter(
    "talkwire_chats_finished", "Answers that came to an end.", ["model", "finish_reason"]
)
REJECTED = Counter("talkwire_chats_rejected", "Chats that were not let in.", ["reason"])
ABORTED = Counter("talkwire_chats_aborted", "Chats that were cut, or left by callers.", ["cause"])
ABORT = Histogram(
    "talkwire_abort_seconds",
    "From the cut of an answer until the engine was rid of it.",
    buckets=_SHORT,
)
QUEUE = Histogram(
    "talkwire_queue_seconds", "From a request's arrival to the engine's work.", buckets=SECONDS
)
FIRST_TOKEN = Histogram(
    "talkwire_first_token_seconds",
    "From a request's arrival to its first token, of answers that ended.",
    buckets=SECONDS,
)
TOTAL = Histogram(
    "talkwire_chat_seconds",
    "From a request's arrival to its end, of answers that ended.",
    buckets=SECONDS,
)
TOKENS = Counter("talkwire_tokens", "Tokens of chats that ended.", ["model", "kind"])
CALLER_CHATS = Counter("talkwire_caller_chats", "Chats that ended, by caller.", ["caller"])
CALLER_TOKENS = Counter(
    "talkwire_caller_tokens", "Tokens of chats that ended, by caller.", ["caller", "kind"]
)

_BUSY = ("QUEUE_FULL", "QUOTA_EXCEEDED", "DEADLINE_UNREACHABLE", "MODEL_LOADING", "SHUTTING_DOWN")
_CUT_BY = {reason: reason.lower() for reason in ("SLOW_READER", "SHUTTING_DOWN", "ENGINE_DEAD")}
_LEFT_BY = {grpc.StatusCode.CANCELLED: "client", grpc.StatusCode.DEADLINE_EXCEEDED: "deadline"}


class ChatMetrics:
    """Counts chats. See `talkwire_server.journal.Reader` for the contract."""

    def __init__(self, callers: Collection[str]) -> None:
        self._callers = frozenset(callers)
        # So that the first of each is an increase, and not a beginning.
        for cause in (*_CUT_BY.values(), *_LEFT_BY.values()):
            series(ABORTED, cause)
        for reason in _BUSY:
            series(REJECTED, reason)

    def begin(self, entry: Entry) -> None:
        """Wait for its end."""

    def close(self) -> None:
        """Nothing is kept."""

    def end(self, entry: Entry) -> None:
        """Count it."""
        series(CHATS, entry.rpc, code_name(entry.code), entry.reason).inc()
        caller = entry.caller if entry.caller in self._callers else OTHERS
        series(CALLER_CHATS, caller).inc()
        if entry.call is None and entry.reason:
            series(REJECTED, entry.reason).inc()
        elif cause := _cause(entry):
            series(ABORTED, cause).inc()
            if entry.left:
                ABORT.observe(entry.ended - entry.left)
        if entry.call is None:
            return
        tokens = _tokens(entry)
        for kind, count in tokens.items():
            series(TOKENS, entry.call.model, kind).inc(count)
            series(CALLER_TOKENS, caller, kind).inc(count)
        _observe(entry)


@cache
def series(metric: M, *labels: str) -> M:
    """Find the series of some labels, sooner than prometheus_client does."""
    return metric.labels(*labels)


@cache
def code_name(code: grpc.StatusCode) -> str:
    """Spell a code as Go does, and with it the dashboards of gRPC: `OK`, `DeadlineExceeded`."""
    if code is grpc.StatusCode.OK:
        return "OK"
    if code is grpc.StatusCode.CANCELLED:
        return "Canceled"
    return code.name.title().replace("_", "")


def _cause(entry: Entry) -> str:
    """Name what cut a chat short; empty if nothing did."""
    return _CUT_BY.get(entry.reason, "") if entry.reason else _LEFT_BY.get(entry.code, "")


def _tokens(entry: Entry) -> dict[str, int]:
    """Count a chat's tokens by kind: `cached` are among `prompt`, `cut` are what nobody got."""
    call = entry.call
    assert call
    if call.last is None:
        return {"cut": call.used}
    usage = call.last.usage
    return {
        "prompt": usage.prompt_tokens,
        "cached": usage.cached_tokens,
        "completion": usage.completion_tokens,
    }


def _observe(entry: Entry) -> None:
    call = entry.call
    assert call
    if call.last is None:
        QUEUE.observe(call.waited)
        return
    series(FINISHED, call.model, entry.finish_reason).inc()
    timing = call.last.timing
    QUEUE.observe(timing.queue.ToMicroseconds() / 1e6)
    if first_token := timing.first_token.ToMicroseconds():
        FIRST_TOKEN.observe(first_token / 1e6)
    TOTAL.observe(entry.ended - entry.arrival)
