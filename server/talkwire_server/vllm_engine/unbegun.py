"""An answer that ends while its prompt is being made: its media were long in coming."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from talkwire_server.engine import Call

T = TypeVar("T")


async def unless_ended(call: Call, making: Coroutine[Any, Any, T]) -> T | None:
    """Return what is made for a call; None where the call ends before it is there."""
    task = asyncio.ensure_future(making)
    call.on_end(task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        if call.ending and task.cancelled() and not _is_cancelled():
            return None
        raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
