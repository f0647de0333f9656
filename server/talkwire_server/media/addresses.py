"""Where listed hosts may be: at public addresses. Knows no requests."""

import socket
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Network, ip_address

from aiohttp.abc import AbstractResolver, ResolveResult

_UNICAST = IPv6Network("2000::/3")  # all of IPv6 that is routed globally
_NAT64 = IPv6Network("64:ff9b::/96")  # IPv4 behind a translator, RFC 6052


class PublicResolver(AbstractResolver):
    """Resolves names, but to addresses that anyone could reach.

    aiohttp connects to what it returns and to nothing else, so a name that changes its address
    between a check and the connection changes nothing. Addresses in URIs do not pass here: they
    are taken only where the operator listed them.

    Args:
        names: Who resolves.
        listed: Addresses and names that the operator listed; those are public enough, and so is
            `localhost`, wherever it is.

    """

    def __init__(self, names: AbstractResolver, listed: Collection[str]) -> None:
        self._names = names
        self._listed = listed

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name that may be connected to; there is at least one."""
        found = await self._names.resolve(host, port, family)
        if host == "localhost":
            return found
        allowed = [a for a in found if a["host"] in self._listed or is_public(a["host"])]
        if not allowed:
            raise PermissionError(f"{host} has no public address")
        return allowed

    async def close(self) -> None:
        """Let go of who resolves."""
        await self._names.close()


def is_public(text: str) -> bool:
    """Tell whether an address is one of the public internet's, however it is wrapped."""
    address = ip_address(text)
    if address.version == 6:
        inner = IPv4Address(address.packed[-4:]) if address in _NAT64 else address.ipv4_mapped
        if inner is None:
            return address.is_global and address in _UNICAST and address.sixtofour is None
        address = inner
    return address.is_global and not address.is_multicast
