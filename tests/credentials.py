"""Credentials for tests: tokens, keys and JWTs, and a server that tells whom it takes one for."""

import asyncio
import hmac
import json
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import time
from typing import Any

import grpc
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from talkwire_server.callers import caller
from talkwire_server.security.guard import Guard
from talkwire_server.security.tokens import make
from talkwire_server.settings import Settings

ISSUER, AUDIENCE = "https://issuer.example", "talkwire"


class TokenFile:
    """A file of tokens, which a test adds to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_text("")

    def add(self, name: str, **rights: Any) -> str:
        """Add a token; return it."""
        token, digest = make()
        with self.path.open("a") as file:
            file.write(f"- {json.dumps({'name': name, 'sha256': digest, **rights})}\n")
        return token


class Issuer:
    """Signs JWTs with a key of its own."""

    def __init__(self, kid: str | None = "first", kind: str = "ES256", bits: int = 2048) -> None:
        self.kid = kid
        self.kind = kind
        self.key: Any = (
            ec.generate_private_key(ec.SECP256R1())
            if kind == "ES256"
            else rsa.generate_private_key(65537, bits)
        )

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key, as a JWKS has it."""
        algorithm = ECAlgorithm if self.kind == "ES256" else RSAAlgorithm
        public = algorithm.to_jwk(self.key.public_key(), as_dict=True)
        return {**public, "alg": self.kind, **({"kid": self.kid} if self.kid else {})}

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Say what a good token says, but for what is given; None leaves a claim out."""
        good = {"sub": "ada", "iss": ISSUER, "aud": AUDIENCE, "exp": time() + 600}
        return {name: value for name, value in (good | claims).items() if value is not None}

    def token(self, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Sign a token."""
        kid = {"kid": self.kid} if self.kid else {}
        return jwt.encode(self.claims(**claims), self.key, self.kind, {**kid, **(headers or {})})

    def forged(self, **claims: Any) -> str:
        """Sign HS256 with the public key for a secret, which PyJWT would not do."""
        head = {"alg": "HS256", "typ": "JWT", "kid": self.kid}
        signed = ".".join(part(json.dumps(one).encode()) for one in (head, self.claims(**claims)))
        form = PublicFormat.SubjectPublicKeyInfo
        secret: bytes = self.key.public_key().public_bytes(Encoding.PEM, form)
        return f"{signed}.{part(hmac.digest(secret, signed.encode(), 'sha256'))}"


def part(content: bytes) -> str:
    """Spell a part of a JWT."""
    return urlsafe_b64encode(content).decode().rstrip("=")


def write_keys(path: Path, *issuers: Issuer) -> Path:
    """Write the JWKS of issuers."""
    path.write_text(json.dumps({"keys": [issuer.jwk for issuer in issuers]}))
    return path


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata that a token travels in."""
    return (("authorization", f"Bearer {token}"),)


class Naming:
    """A channel to a server with a guard, whose every method tells who calls."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def ask(self, *metadata: tuple[str, str], method: str = "whoami") -> str:
        """Return whom the server takes the caller for."""
        call = self._channel.unary_unary(f"/test/{method}", None, None)
        return bytes(await call(b"", metadata=metadata)).decode()

    async def stream(self, *metadata: tuple[str, str]) -> list[str]:
        """Return the same, as each of three messages of a stream has it."""
        call = self._channel.unary_stream("/test/stream", None, None)
        return [bytes(said).decode() async for said in call(b"", metadata=metadata)]


@asynccontextmanager
async def naming(**settings: Any) -> AsyncIterator[Naming]:
    """Serve behind a guard."""

    async def whoami(_: bytes, context: Any) -> bytes:
        await asyncio.sleep(0.001)  # other calls come in between
        return repr(caller(context)).encode()

    async def stream(_: bytes, context: Any) -> AsyncIterator[bytes]:
        for _i in range(3):
            await asyncio.sleep(0.001)
            yield repr(caller(context)).encode()

    methods = {
        "whoami": grpc.unary_unary_rpc_method_handler(whoami),
        "stream": grpc.unary_stream_rpc_method_handler(stream),
    }
    guard = Guard(Settings(**settings))
    await guard.load()
    server = grpc.aio.server(interceptors=[guard])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Naming(channel)
    finally:
        await server.stop(None)
