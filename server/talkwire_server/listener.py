"""A `grpc.aio.Server` that callers cannot end, and whose calls it can end itself.

grpc.aio's own (1.85.1, and its sources since) decodes the names of methods that nobody registered
in the loop that serves all calls; one byte from anybody ends it. Here no such name is read: what is
not registered, as generated code registers all of its methods, is answered UNIMPLEMENTED.

Nor can grpc.aio reset a call: a status goes behind what the caller has not taken, and all of it is
kept. gRPC's core resets a call that nothing refers to any more, which its two tasks do.
"""

import asyncio
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any
from weakref import ref

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled

_KEEPER = ContextVar[asyncio.Task[None]]("keeper")
"""The task that waits for a call's caller to have all, or to leave; it starts the handler's."""


class ThisCall:
    """The call whose handler, or interceptor, the current task runs."""

    def __init__(self) -> None:
        handler, keeper = asyncio.current_task(), _KEEPER.get()
        assert handler
        # Weak: what a reset shall free may be kept by an exception of a task.
        self._tasks = ref(handler), ref(keeper)

    def reset(self) -> None:
        """End it now, and free all that is kept of it: of the server's latest when the next comes.

        The caller sees CANCELLED.
        """
        for task in self._tasks:
            if found := task():
                found.cancel()

    def watch(self, answered: Callable[[], None], ended: Callable[[], None]) -> None:
        """Have functions called when the handler has ended, and when nothing is kept any more."""
        handler, keeper = (task() for task in self._tasks)
        if handler and keeper:
            handler.add_done_callback(lambda _: answered())
            keeper.add_done_callback(lambda _: ended())


def _make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
) -> asyncio.Task[Any]:
    """Be the loop's task factory: the task that keeps a call is known to those that it starts."""
    if getattr(coroutine, "__name__", "") != "_schedule_rpc_coro":
        return asyncio.Task(coroutine, loop=loop, **options)
    context = options.pop("context", None) or copy_context()
    task = asyncio.Task(coroutine, loop=loop, context=context, **options)
    context.run(_KEEPER.set, task)
    return task


class _Listener(cygrpc.AioServer):  # type: ignore[misc]  # without types
    def _make_request_call_future(self, method: bytes | None) -> asyncio.Future[Any]:
        if method is not None:
            registered: asyncio.Future[Any] = super()._make_request_call_future(method)
            return registered
        return asyncio.ensure_future(self._refuse_unknown())

    async def _refuse_unknown(self) -> None:
        """Answer all calls of unknown methods; raises gRPC's own error when the server stops."""
        answering: set[asyncio.Task[None]] = set()
        while True:
            task = asyncio.create_task(_refuse(await self._request_call()))
            answering.add(task)
            task.add_done_callback(answering.discard)


async def _refuse(call: Any) -> None:
    context = cygrpc._ServicerContext(call, None, None, asyncio.get_running_loop())
    try:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
    except cygrpc.BaseError:  # answered, or the caller has left
        return


def listener(**options: Any) -> grpc.aio.Server:
    """Make a server, with the options of `grpc.aio.server`, and a task factory of the loop's."""
    asyncio.get_running_loop().set_task_factory(_make_task)
    theirs = cygrpc.AioServer
    cygrpc.AioServer = _Listener
    try:
        return grpc.aio.server(**options)
    finally:
        cygrpc.AioServer = theirs
