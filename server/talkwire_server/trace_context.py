"""The trace that a call is part of, as its caller tells of it: W3C Trace Context, checked.

Knows no OpenTelemetry. Source of the rules: https://www.w3.org/TR/trace-context/.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeAlias

from talkwire_proto.v1 import chat_pb2 as pb

TraceContext: TypeAlias = Mapping[str, str]
"""A good `traceparent`, and the `tracestate` beside it, if any; empty where there is no trace."""

MOST = 512  # characters of a tracestate; what is longer need not be handed on

_PARENT = re.compile(  # version; ids that are not zero, and flags; what a newer version adds
    "([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?"
)


def of_metadata(metadata: Iterable[tuple[str, str | bytes]] | None) -> TraceContext:
    """Read the metadata of a call."""
    said: dict[str, str] = {}
    for key, value in metadata or ():
        if key in ("traceparent", "tracestate") and isinstance(value, str):
            said[key] = f"{said[key]},{value}" if key in said else value
    return _checked(said.get("traceparent", ""), said.get("tracestate", ""))


def of_start(start: pb.ChatMultiplexRequest.Start) -> TraceContext:
    """Read what begins a multiplexed call."""
    return _checked(start.traceparent, start.tracestate)


def _checked(parent: str, state: str) -> TraceContext:
    """Pass over what breaks the rules: a trace shall never fail a chat."""
    found = _PARENT.fullmatch(parent) if parent else None
    if not found or found[1] == "ff" or (found[1] == "00" and found[3]):
        return {}
    context = {"traceparent": f"00-{found[2]}"}  # the version whose parts were read
    return {**context, "tracestate": state} if 0 < len(state) <= MOST else context
