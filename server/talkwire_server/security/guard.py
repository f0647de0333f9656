"""The guard: asks each call for its token before a handler hears of it. Knows no models."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from talkwire_server.callers import IDENTITY, PROVING, Caller
from talkwire_server.errors import CallError, EngineFailure, Unauthenticated
from talkwire_server.logs import Seldom
from talkwire_server.security.jwts import Signed
from talkwire_server.security.keys import KeyFile, KeyUrl
from talkwire_server.security.tokens import Tokens
from talkwire_server.settings import Settings
from talkwire_server.statuses import Context, statuses

log = logging.getLogger("talkwire")

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Details = grpc.HandlerCallDetails


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]  # generic in the stubs alone
    """Lets calls in that bring a token, and says in `IDENTITY` who calls.

    Raises:
        StartError: A file cannot be used.

    """

    def __init__(self, settings: Settings) -> None:
        self._tokens = Tokens(settings.token_file) if settings.token_file else None
        self._signed = _signed(settings)
        opened = {health.SERVICE_NAME: settings.open_health}
        opened[reflection.SERVICE_NAME] = settings.open_reflection
        self._open = tuple(f"/{name}/" for name, is_open in opened.items() if is_open)
        self._refused, self._failed = Seldom(), Seldom()

    async def load(self) -> None:
        """Fetch what is not on this machine; StartError where that fails."""
        if self._signed:
            await self._signed.keys.load()

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler]], handler_call_details: Details
    ) -> Handler:
        """Let a call go on, or end it."""
        call = handler_call_details
        try:
            await self.identify(call.method, call.invocation_metadata or ())
        except CallError as error:
            # Whatever the method is, as a stream, so that nothing is read.
            refuse = partial(self._refuse_stream, error)
            return grpc.stream_unary_rpc_method_handler(refuse)
        return await continuation(handler_call_details)

    async def identify(self, method: str, metadata: Metadata) -> None:
        """Say in `IDENTITY` who calls a method; raise the `CallError` why nobody may."""
        if not method.startswith(self._open):
            PROVING.set(partial(self._prove, metadata))
            IDENTITY.set(await self._prove(metadata))

    async def refuse(self, error: CallError, context: Context) -> None:
        """End a call that `identify` did not let in."""
        if isinstance(error, Unauthenticated) and (count := self._refused.due()):
            text = "refused %s: %s (calls refused so far: %d)"
            log.warning(text, context.peer(), error.why, count)
        async with statuses(context):
            raise error

    async def _refuse_stream(self, error: CallError, _requests: object, context: Context) -> None:
        await self.refuse(error, context)

    async def _prove(self, metadata: Metadata) -> Caller:
        """Name who calls; Unauthenticated, or EngineFailure where it is not the token's fault."""
        try:
            return await self._find(_bearer(metadata))
        except Unauthenticated:
            raise
        except Exception:
            if count := self._failed.due():
                log.exception("could not look at a token (%d so far)", count)
            raise EngineFailure from None

    async def _find(self, token: str) -> Caller:
        if self._tokens and (found := await self._tokens.find(token)):
            return found
        if self._signed:
            return await self._signed.find(token)
        raise Unauthenticated("the token is not known")


def _signed(settings: Settings) -> Signed | None:
    if not (settings.jwt_jwks and settings.jwt_issuer and settings.jwt_audience):
        return None
    keys = (KeyUrl if "://" in settings.jwt_jwks else KeyFile)(settings.jwt_jwks)
    return Signed(keys, settings.jwt_issuer, settings.jwt_audience)


def _bearer(metadata: Metadata) -> str:
    given = [value for key, value in metadata if key == "authorization"]
    if len(given) != 1:
        raise Unauthenticated("several tokens" if given else "no token")
    scheme, _, token = str(given[0]).partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("not a bearer token")
    return token
