"""Static tokens: a file of hashes, and who each token proves. Knows no JWTs and no calls.

    - {name: ada, sha256: 0fa1…}
    - {name: batch, sha256: 9b71…, models: [small], weight: 1, max_running: 4,
       tokens_per_minute: 60000}

Plain SHA-256 keeps them: a token is 256 random bits, which nobody finds by guessing, so there is
nothing that a salt or a slow hash would make harder.
"""

import re
import secrets
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from hmac import compare_digest
from typing import Any

import yaml

from talkwire_server.callers import Caller
from talkwire_server.engine import StartError
from talkwire_server.security.files import Watched, content
from talkwire_server.security.rights import caller

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Tokens:
    """The tokens of a file, which is read again when it changes.

    Raises:
        StartError: The file cannot be used; names every fault.

    """

    def __init__(self, path: str) -> None:
        self._file = Watched(partial(_read, path), path)

    async def find(self, token: str) -> Caller | None:
        """Tell whose token this is."""
        tokens = await self._file.latest()
        digest = sha256(token.encode()).digest()
        # All are compared, so that the time it takes tells nothing.
        found = [caller for known, caller in tokens if compare_digest(known, digest)]
        return found[0] if found else None


def make() -> tuple[str, str]:
    """Make a token, and the hash to keep."""
    token = f"tw_{secrets.token_urlsafe(32)}"
    return token, sha256(token.encode()).hexdigest()


def _read(path: str) -> Sequence[tuple[bytes, Caller]]:
    try:
        entries = yaml.safe_load(content(path))
    except (yaml.YAMLError, ValueError, RecursionError):  # of dates, numbers and nests
        raise StartError(f"{path}: not YAML") from None
    if not isinstance(entries, list) or not entries:
        raise StartError(f"{path}: must be a list of tokens, as `talkwire token` writes it")
    tokens, faults = [], []
    for number, entry in enumerate(entries, 1):
        try:
            tokens.append(_token(entry))
        except ValueError as error:
            faults.append(f"token {number}: {error}")
    if len({digest for digest, _ in tokens}) < len(tokens):
        faults.append("a token stands there twice")
    if faults:
        raise StartError(f"{path}: {'; '.join(faults)}")
    return tokens


def _token(entry: Any) -> tuple[bytes, Caller]:
    if not isinstance(entry, dict):
        raise ValueError("must be a mapping")
    name, digest = entry.pop("name", None), entry.pop("sha256", None)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError("name must be 1 to 64 of A-Z a-z 0-9 . _ -")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("sha256 must be 64 of 0-9 a-f")
    return bytes.fromhex(digest), caller(name, entry)
