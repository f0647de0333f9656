"""Public keys that JWTs are signed with: a JWKS, of a file or a URL. Knows no tokens."""

import asyncio
import json
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from time import monotonic
from typing import Protocol

from jwt import PyJWK, PyJWKClient, PyJWKSet, PyJWTError

from talkwire_server.engine import StartError
from talkwire_server.security.files import Watched, content

log = logging.getLogger("talkwire")

# Never HS*: whoever knew a public key could sign with it as if it were a secret.
ALGORITHMS = [
    "EdDSA",
    *(f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)),
]
TIMEOUT = 5  # seconds for a fetch
OLD = 300  # seconds after which keys are fetched again
PAUSE = 30  # seconds between fetches for keys that are not known


class Keys(Protocol):
    """Where keys come from."""

    async def load(self) -> None:
        """Have keys; StartError where there are none to be had."""

    async def find(self, kid: str | None) -> PyJWK | None:
        """Find the key of an id; tokens without ids have keys without."""


class KeyFile:
    """The keys of a file, which is read again when it changes."""

    def __init__(self, path: str) -> None:
        self._file = Watched(partial(_read, path), path)

    async def load(self) -> None:
        """Do nothing: they are there."""

    async def find(self, kid: str | None) -> PyJWK | None:
        """Find a key."""
        return _choose(await self._file.latest(), kid)


class KeyUrl:
    """The keys at an https: URL: kept, and fetched again when they are old or one is not known.

    A fetch that fails leaves the keys as they are. Redirects are not followed.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = PyJWKClient(url, cache_jwk_set=False, timeout=TIMEOUT)
        self._keys: Sequence[PyJWK] = ()
        self._begun = monotonic()
        self._fetch: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Fetch them for the first time."""
        self._begun = monotonic()
        self._keys = await asyncio.to_thread(self._get)

    async def find(self, kid: str | None) -> PyJWK | None:
        """Find a key. Calls that need a new one wait for the same fetch."""
        key = _choose(self._keys, kid)
        is_idle = self._fetch is None or self._fetch.done()
        if is_idle and monotonic() - self._begun > (OLD if key else PAUSE):
            self._begun = monotonic()
            self._fetch = asyncio.create_task(self._refresh())
        if key is None and self._fetch:
            await asyncio.shield(self._fetch)
            key = _choose(self._keys, kid)
        return key

    async def _refresh(self) -> None:
        try:
            self._keys = await asyncio.to_thread(self._get)
        except StartError as error:
            log.error("%s; the keys that were there before stay in use", error)

    def _get(self) -> Sequence[PyJWK]:
        try:
            return _usable(self._client.get_jwk_set(), self._url)
        except (OSError, ValueError, RecursionError, PyJWTError) as error:
            raise StartError(f"{self._url}: no keys to be had: {error}") from None


def _read(path: str) -> Sequence[PyJWK]:
    try:
        found = json.loads(content(path))
        return _usable(PyJWKSet(found["keys"]), path)
    except (ValueError, TypeError, KeyError, RecursionError, PyJWTError):
        raise StartError(f"{path}: not a JWKS with a public key") from None


def _usable(found: Iterable[PyJWK], source: str) -> Sequence[PyJWK]:
    keys = [
        key
        for key in found
        if key.algorithm_name in ALGORITHMS and key.public_key_use in ("sig", None)
    ]
    if not keys:
        raise StartError(f"{source}: holds no public key for signatures")
    return keys


def _choose(keys: Sequence[PyJWK], kid: str | None) -> PyJWK | None:
    return next((key for key in keys if key.key_id == kid), None)
