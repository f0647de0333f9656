"""Steps that are taken side by side: until one is done, or all are. Knows not what they are."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def first(*steps: Coroutine[Any, Any, Any]) -> int:
    """Take steps until one is done; cancel the others; return which one it was."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    done_first = next(task for task in tasks if task in done)
    done_first.result()
    return tasks.index(done_first)


async def each(*steps: Coroutine[Any, Any, Any]) -> list[Any]:
    """Take steps until all are done, or one fails; then the others are cancelled."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
