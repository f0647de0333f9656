"""Who calls: what admission, limits and logs know of a caller. Checks no credentials."""

from collections.abc import Awaitable, Callable, Collection
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from string import punctuation
from urllib.parse import quote, unquote

from talkwire_server.statuses import Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """One party that calls, and what it may do.

    Attributes:
        name: A token's identity, else that of a client's certificate, else the peer's address
            without its port. Safe to log.
        is_address: Whether the name is but an address, which proves nothing.
        models: Ids that it may ask; None for all.
        weight: Its share of a busy server beside others' shares.
        max_running: Calls of it that may be inside at once; None for the server's own limit.
        tokens_per_minute: Prompt and answer together; None for the server's own limit.

    """

    name: str
    is_address: bool = False
    models: Collection[str] | None = None
    weight: int = 1
    max_running: int | None = None
    tokens_per_minute: int | None = None


IDENTITY: ContextVar[Caller | None] = ContextVar("identity", default=None)
"""Who the credentials of the current call prove; set by whoever checks them, if anybody does."""

PROVING: ContextVar[Callable[[], Awaitable[Caller]] | None] = ContextVar("proving", default=None)
"""Checks those credentials anew; set beside `IDENTITY`."""


def caller(context: Context) -> Caller:
    """Name who makes a call: whoever its credentials prove, else the address that it comes from."""
    if proven := IDENTITY.get():
        return proven
    if name := _certified(context):
        return Caller(name=name)
    return Caller(name=_host(context.peer()), is_address=True)


async def caller_anew(context: Context) -> Caller:
    """Name who makes a call that has been open for long; Unauthenticated if no longer proven."""
    prove = PROVING.get()
    return await prove() if prove else caller(context)


def loggable(name: str | bytes) -> str:
    """Spell a foreign name so that no log takes it for more; two names stay two."""
    return quote(name, safe=punctuation.replace("%", ""))


def _certified(context: Context) -> str:
    """Take the first alternative name of the client's certificate, else its common name."""
    names = context.peer_identities() or ()
    return loggable(next(iter(names), b""))


def _host(peer: str) -> str:
    """Cut gRPC's `ipv4:10.0.0.5:40312` to `10.0.0.5`; all of a Unix socket are one.

    So are all of an IPv6 network of 64 bits, which is what one subscriber has.
    """
    kind, _, address = peer.partition(":")
    if kind not in ("ipv4", "ipv6"):
        return kind
    host = unquote(address.rpartition(":")[0]).strip("[]")
    if kind == "ipv4":
        return host
    six = IPv6Address(host.partition("%")[0])
    return str(six.ipv4_mapped or IPv6Network((six, 64), strict=False))
