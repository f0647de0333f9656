"""A talkwire server that writes down when its engine was rid of which request.

    python benchmarks/load/watched.py FILE [flags of talkwire serve]

FILE is JSON, written at the end; times are those of the monotonic clock, which all processes share.
`ended` says of each request when the frontend had aborted or finished it; `running` how many the
engine itself said after a step that it runs, to the millisecond, each time that this changed.
"""

import asyncio
import json
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, cast

import uvloop
from prometheus_client import REGISTRY

from talkwire_server import cli, options
from talkwire_server.engine import Call, Delta, Engine, Sink
from talkwire_server.lifetime import serve
from talkwire_server.logs import start_logging
from talkwire_server.server import Server
from talkwire_server.settings import Settings

RUNNING = "vllm:num_requests_running"


class Watched:
    """An engine, and which of its answers began, and when they ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.begun: set[str] = set()
        self.ended: dict[str, float] = {}
        self.running: list[tuple[float, int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Answer a call."""
        self.begun.add(call.id)
        try:
            async with aclosing(self._engine.stream(call)) as deltas:
                async for delta in deltas:
                    yield delta
        finally:
            self.ended[call.id] = monotonic()

    async def feed(self, call: Call, sink: Sink) -> None:
        """Answer a call into a sink."""
        self.begun.add(call.id)
        try:
            await self._engine.feed(call, sink)
        finally:
            self.ended[call.id] = monotonic()

    async def watch(self) -> None:
        """Look each millisecond at vLLM's gauge, if there is one."""
        while True:
            gauge: Any = REGISTRY._names_to_collectors.get(RUNNING)
            count = sum(one._value.get() for one in gauge._metrics.values()) if gauge else 0
            if not self.running or self.running[-1][1] != count:
                self.running.append((monotonic(), int(count)))
            await asyncio.sleep(0.001)


async def serve_watched(settings: Settings, engine: Watched) -> None:
    """Serve until told to stop."""
    watching = asyncio.create_task(engine.watch())
    watched = cast(Engine, engine)
    await serve(settings, watched, partial(Server, settings, watched), monotonic())
    watching.cancel()


def main(file: Path, flags: list[str]) -> None:
    """Serve, then write."""
    settings = options.parse(flags, os.environ)
    start_logging(settings)
    engine = Watched(cli._engine(settings))
    uvloop.run(serve_watched(settings, engine))
    file.write_text(json.dumps({"ended": engine.ended, "running": engine.running}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
