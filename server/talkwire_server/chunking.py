"""Fewer, larger messages for callers who ask for them. Knows no engine."""

import asyncio
from collections.abc import AsyncGenerator
from math import inf
from time import monotonic

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Delta


async def chunked(deltas: AsyncGenerator[Delta], chunking: pb.Chunking) -> AsyncGenerator[Delta]:
    """Gather deltas as a request asks. An answer's first text and its end wait for nothing."""
    delay = chunking.max_delay.ToNanoseconds() / 1e9 if chunking.HasField("max_delay") else inf
    enough = chunking.min_chars or (0 if delay == inf else inf)
    gathered: dict[int, Delta] = {}
    begun: set[int] = set()
    chars, due = 0, inf
    coming = asyncio.ensure_future(anext(deltas, None))
    try:
        while True:
            left = None if due == inf else due - monotonic()
            await asyncio.wait({coming}, timeout=left)
            at_once = not coming.done()
            if not at_once:
                if coming.exception():
                    for held in gathered.values():
                        yield held
                if (delta := coming.result()) is None:
                    return
                new = _add(gathered, delta)
                chars += new
                at_once = bool(delta.finish_reason) or chars >= enough
                if new and delta.index not in begun:
                    begun.add(delta.index)
                    at_once = True
                due = min(due, monotonic() + delay)
                coming = asyncio.ensure_future(anext(deltas, None))
            if at_once:
                for held in gathered.values():
                    yield held
                gathered, chars, due = {}, 0, inf
    finally:
        coming.cancel()
        await _ended(coming)


async def _ended(coming: asyncio.Future[Delta | None]) -> None:
    """Wait for it whoever is cancelled meanwhile: a generator that runs cannot be closed."""
    try:
        await asyncio.wait({coming})
    except asyncio.CancelledError:
        await _ended(coming)
        raise


def _add(gathered: dict[int, Delta], delta: Delta) -> int:
    """Put a delta behind what there is of its answer; return how many characters it has."""
    if (before := gathered.setdefault(delta.index, delta)) is not delta:
        text, reasoning = before.text + delta.text, before.reasoning + delta.reasoning
        before.MergeFrom(delta)
        before.text, before.reasoning = text, reasoning
    arguments = sum(len(call.arguments) for call in delta.tool_calls)
    return len(delta.text) + len(delta.reasoning) + arguments
