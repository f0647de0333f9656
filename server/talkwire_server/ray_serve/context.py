"""The context of a call: gRPC's own, or where that is in another process, one in its place."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, TypeAlias, cast

import grpc
from google.protobuf.message import Message
from ray.serve.grpc_util import RayServegRPCContext

from talkwire_server.statuses import Context

Handler: TypeAlias = Callable[[Context], Coroutine[Any, Any, None]]

CALL: ContextVar[Context | None] = ContextVar("call", default=None)
"""gRPC's context of the current call, if it came straight to this process; see `servicers.py`."""


class Failed(grpc.aio.AbortError):
    """How a call ended that Serve's proxy brought, for Serve to take back there."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(code, details)  # what pickle makes it of


class ProxiedContext:
    """What handlers ask of gRPC's context, for a call that Serve's proxy brought.

    Serve takes back a code and a text; neither trailers nor metadata, nor does it tell the
    deadline: it cancels when that is over.
    """

    def __init__(self, given: RayServegRPCContext) -> None:
        self._given = given
        self.invocation_metadata = given.invocation_metadata
        self.peer = given.peer

    def peer_identities(self) -> None:
        """Know of no certificate."""

    def time_remaining(self) -> None:
        """Know of no deadline."""

    def done(self) -> bool:
        """Not know that it ended: its handler is cancelled then."""
        return False

    async def send_initial_metadata(self, metadata: object) -> None:
        """Send none."""

    async def abort(
        self,
        code: grpc.StatusCode,
        details: str = "",
        trailing_metadata: object = (),  # noqa: ARG002  # as gRPC has it
    ) -> NoReturn:
        """End the call with a status."""
        self._given.set_code(code)
        self._given.set_details(details)
        raise Failed(code, details)


def context_of(given: RayServegRPCContext) -> Context:
    """Return the context of the current call."""
    return CALL.get() or cast(Context, ProxiedContext(given))


async def writable(context: Context) -> Context:
    """Return a context whose `write` takes messages; of Serve's servers it takes bytes."""
    if isinstance(context, ProxiedContext):
        await context.abort(grpc.StatusCode.UNAVAILABLE, "there was no replica: ask again")
    return cast(Context, _Writing(context))


class _Writing:
    def __init__(self, context: Context) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Message) -> None:
        await self._context.write(message.SerializeToString())


class _Handing:
    def __init__(self, context: Context, messages: asyncio.Queue[Message]) -> None:
        self._context = context
        self.write = messages.put

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


async def written(handler: Handler, context: Context) -> AsyncGenerator[Message]:
    """Have a handler write; yield what Serve's proxy has to be given instead."""
    if not isinstance(context, ProxiedContext):
        await handler(cast(Context, _Writing(context)))
        return
    messages = asyncio.Queue[Message](1)
    handling = asyncio.ensure_future(handler(cast(Context, _Handing(context, messages))))
    try:
        while True:
            taking = asyncio.ensure_future(messages.get())
            await asyncio.wait({taking, handling}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                taking.cancel()
                break
            yield taking.result()
        await handling
    finally:
        handling.cancel()
        await asyncio.wait({handling})


@contextmanager
def ending() -> Iterator[None]:
    """Keep from Serve that a call was aborted whose caller was told: it would log a failure."""
    try:
        yield
    except Failed:
        raise
    except grpc.aio.AbortError:
        pass
