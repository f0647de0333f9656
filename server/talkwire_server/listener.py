"""A `grpc.aio.Server` that lives on when a call names a method in bytes that are no text.

grpc.aio's own (1.85.1, and its sources since) decodes the names of methods that nobody registered
in the loop that serves all calls; one byte from anybody ends it. Here no such name is read: what is
not registered, as generated code registers all of its methods, is answered UNIMPLEMENTED.
"""

import asyncio
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]  # compiled


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
    """Make a server, with the options of `grpc.aio.server`."""
    theirs = cygrpc.AioServer
    cygrpc.AioServer = _Listener
    try:
        return grpc.aio.server(**options)
    finally:
        cygrpc.AioServer = theirs
