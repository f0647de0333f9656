"""Fetches media from the hosts that the operator listed. Knows not what the bytes are."""

import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from talkwire_server.media.addresses import PublicResolver
from talkwire_server.media.unreadable import Unreadable

AT_ONCE = 8  # connections for one request
_LONGEST = 8192  # characters of a URI; yarl keeps those that it read last

# Compressed bodies would grow past every limit, and a picture is compressed already.
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "talkwire"}

log = logging.getLogger("talkwire")


class Web:
    """The listed origins: `example.com` by https:, others spelled out, `http://10.0.0.5:8080`.

    An origin is a scheme, a host and a port; subdomains are other hosts. TLS certificates are
    verified, redirects are not followed, proxies of the environment are not used, and a host is
    reached at public addresses only (see addresses.py).

    Args:
        origins: As the operator lists them.
        timeout: Seconds that the fetches of one request may take.
        most: Bytes of the largest body that is taken.
        resolver: Who turns names into addresses; None for the system.

    """

    def __init__(
        self,
        origins: Iterable[str],
        timeout: float,
        most: int,
        resolver: AbstractResolver | None = None,
    ) -> None:
        urls = [URL(o if "://" in o else f"https://{o}") for o in origins]
        self._origins = {_origin(url) for url in urls}
        self._hosts = {url.raw_host or "" for url in urls}
        self._timeout = timeout
        self._most = most
        self._resolver = resolver

    def allows(self, uri: str) -> bool:
        """Tell whether a URI is of a listed origin, and carries no user or password."""
        try:
            url = URL(uri) if len(uri) <= _LONGEST else URL()
        except ValueError:
            return False
        return _origin(url) in self._origins and url.user is None and url.password is None

    @asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        """Open what the fetches of one request share; afterwards nothing of it is left."""
        names = self._resolver or aiohttp.ThreadedResolver()
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=AT_ONCE, resolver=PublicResolver(names, self._hosts), use_dns_cache=False
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers=_HEADERS,
            auto_decompress=False,
        ) as session:
            yield session

    async def fetch(self, session: aiohttp.ClientSession, uri: str) -> bytes:
        """Return the body of a URI that is allowed.

        Raises:
            Unreadable: There is none, whatever the reason is, or it is too large.

        """
        url = URL(uri)
        try:
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    log.info("no medium from %s: status %d", url.host, response.status)
                    raise Unreadable("cannot be fetched")
                return await self._body(response)
        except TimeoutError:
            raise Unreadable(f"cannot be fetched within {self._timeout:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.info("no medium from %s: %s", url.host, type(error).__name__)
            raise Unreadable("cannot be fetched") from None

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        if (response.content_length or 0) <= self._most:
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > self._most:
                    break
            else:
                return bytes(body)
        raise Unreadable(f"has more than {self._most} bytes")


def _origin(url: URL) -> tuple[str, str | None, int | None]:
    return url.scheme, url.raw_host, url.port
