"""A client whose chats end at random moments in random ways. Prints which ended when, and why.

    python ender.py TARGET CHATS SEED [WORD ...]

Told "never", chats go on; told "multiplexed", they share a call. A line is a JSON list: request id,
way, seconds of the monotonic clock, which all processes share.
"""

import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Unpack

from talkwire import Answer, AsyncClient, Error
from talkwire._messages import Query
from talkwire._request import CallOptions

LONG = "word " * 500  # with 1500 tokens of an answer within the context of the embedded model
MOMENT = 1.0  # seconds at most until a chat ends
AT_ONCE = 20  # more, and what is measured is how long two cores are busy with each other


class Multiplexed(AsyncClient):
    """A client whose answers all come over one call."""

    def __init__(self, target: str, **options: Any) -> None:
        super().__init__(target, multiplex=True, **options)

    async def chat(self, query: Query = "", /, **options: Unpack[CallOptions]) -> Answer:
        async with self.stream(query, **options) as stream:
            return await stream.wait()


Way = Callable[[AsyncClient, str, float], Awaitable[None]]


def tell(call: str, way: str, at: float | None = None) -> None:
    """Print that a chat ends now."""
    print(json.dumps([call, way, at or monotonic()]), flush=True)  # noqa: T201


async def cancel(client: AsyncClient, call: str, moment: float) -> None:
    """Cancel from beside the reader."""

    def end() -> None:
        tell(call, "cancel")
        stream.cancel()

    async with client.stream(LONG, request_id=call) as stream:
        timer = asyncio.get_running_loop().call_later(moment, end)
        try:
            await stream.wait()
        finally:
            timer.cancel()


async def leave(client: AsyncClient, call: str, moment: float) -> None:
    """Leave the block while chunks come."""
    until = monotonic() + moment
    async with client.stream(LONG, request_id=call) as stream:
        async for _ in stream:
            if monotonic() > until:
                break
        tell(call, "leave")


async def deadline(client: AsyncClient, call: str, moment: float) -> None:
    """Let the deadline pass."""
    tell(call, "deadline", monotonic() + moment)
    await client.chat(LONG, request_id=call, timeout=moment)


async def task(client: AsyncClient, call: str, moment: float) -> None:
    """Cancel the task that waits for a unary answer."""
    waiting = asyncio.create_task(client.chat(LONG, request_id=call))
    await asyncio.sleep(moment)
    tell(call, "task")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def channel(client: AsyncClient, call: str, moment: float) -> None:
    """Close the whole channel under the stream."""
    async with type(client)(client.target, max_tokens=1500, ignore_eos=True) as own:
        waiting = asyncio.create_task(own.chat(LONG, request_id=call))
        await asyncio.sleep(moment)
        tell(call, "channel")
    await asyncio.gather(waiting, return_exceptions=True)


async def never(client: AsyncClient, call: str, _moment: float) -> None:
    """Go on, until somebody ends it from outside."""
    tell(call, "never")
    async with client.stream(LONG, request_id=call) as stream:
        await stream.wait()


WAYS: dict[str, Way] = {way.__name__: way for way in (cancel, leave, deadline, task, channel)}


async def main(target: str, chats: int, seed: int, names: list[str]) -> None:
    """Begin all the chats, some at once."""
    draw = random.Random(seed)
    slots = asyncio.Semaphore(AT_ONCE)
    ways = [never] if "never" in names else list(WAYS.values())
    kind = Multiplexed if "multiplexed" in names else AsyncClient

    async def one(i: int, way: Way, moment: float) -> None:
        async with slots:
            with suppress(Error):
                await way(client, f"{seed}-{i}", moment)

    async with kind(target, retry=None, max_tokens=1500, ignore_eos=True) as client:
        await asyncio.gather(
            *(one(i, draw.choice(ways), draw.uniform(0, MOMENT)) for i in range(chats))
        )


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
