"""JWTs: whom they prove, why they are refused, and where their keys come from."""

import asyncio
import json
import logging
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any

import grpc
import jwt
import pytest
from aiohttp import web

from certificates import Authority
from credentials import (
    AUDIENCE,
    ISSUER,
    Issuer,
    Naming,
    TokenFile,
    bearer,
    naming,
    part,
    write_keys,
)
from talkwire_server.callers import Caller
from talkwire_server.engine import StartError
from talkwire_server.security import keys
from talkwire_server.security.keys import KeyFile, KeyUrl

WHO = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}


@pytest.fixture(scope="module")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
def file(tmp_path: Path, issuer: Issuer) -> Path:
    return write_keys(tmp_path / "keys.json", issuer)


async def refused(server: Naming, token: str) -> bool:
    """Tell whether a token is UNAUTHENTICATED; else it must be good."""
    try:
        await server.ask(*bearer(token))
    except grpc.aio.AioRpcError as error:
        said = error.code(), error.details()
    else:
        return False
    words = "a valid token is needed, as metadata authorization: Bearer TOKEN"
    assert said == (grpc.StatusCode.UNAUTHENTICATED, words)
    return True


# Whom one proves


async def test_the_subject_is_who_calls(file: Path, issuer: Issuer) -> None:
    """The name is `sub`, told apart from a static token's, in letters that are safe to log."""
    names = {"ada": "jwt:ada", "auth0|5": "jwt:auth0|5", "a\nb é%": "jwt:a%0Ab%20%C3%A9%25"}
    async with naming(jwt_jwks=str(file), **WHO) as server:
        for subject, name in names.items():
            said = await server.ask(*bearer(issuer.token(sub=subject)))
            assert said == repr(Caller(name=name))


async def test_a_claim_has_the_rights(file: Path, issuer: Issuer) -> None:
    """The claim `talkwire` says what an entry of a token file would."""
    rights: dict[str, Any] = {"models": ["small"], "max_running": 2}
    async with naming(jwt_jwks=str(file), **WHO) as server:
        said = await server.ask(*bearer(issuer.token(talkwire=rights)))
        assert said == repr(Caller(name="jwt:ada", **rights))
        assert await refused(server, issuer.token(talkwire={"max_running": 0}))
        assert await refused(server, issuer.token(talkwire=["small"]))


@pytest.mark.parametrize("kind", ["ES256", "RS256"])
@pytest.mark.parametrize("kid", ["some", None])
async def test_keys_of_both_common_kinds(tmp_path: Path, kind: str, kid: str | None) -> None:
    """Elliptic and RSA keys sign, with an id or, where a set has none, without."""
    issuer = Issuer(kid, kind)
    file = write_keys(tmp_path / "keys.json", issuer)
    async with naming(jwt_jwks=str(file), **WHO) as server:
        assert not await refused(server, issuer.token())


async def test_tokens_of_both_kinds_side_by_side(file: Path, issuer: Issuer) -> None:
    """A token that is not in the file may be a JWT."""
    tokens = TokenFile(file.with_name("tokens.yaml"))
    static = tokens.add("ada")
    settings = {"jwt_jwks": str(file), "token_file": str(tokens.path), **WHO}
    async with naming(**settings) as server:
        assert await server.ask(*bearer(static)) == repr(Caller(name="ada"))
        assert await server.ask(*bearer(issuer.token())) == repr(Caller(name="jwt:ada"))


# Why one is refused


def unsigned(issuer: Issuer) -> str:
    return jwt.encode(issuer.claims(), "", "none", {"kid": issuer.kid})


def altered(issuer: Issuer) -> str:
    head, _, signature = issuer.token().split(".")
    return ".".join((head, part(json.dumps(issuer.claims(sub="root")).encode()), signature))


def deep(_: Issuer) -> str:
    """A header of brackets, which a careless reader of JSON would follow down."""
    return f"{part(b'[' * 5000)}.e30.e30"


NUMBER = b'{"alg": "ES256", "kid": 1}'

REFUSED: dict[str, Callable[[Issuer], str]] = {
    "expired": lambda issuer: issuer.token(exp=time() - 60),
    "without an end": lambda issuer: issuer.token(exp=None),
    "not yet valid": lambda issuer: issuer.token(nbf=time() + 60),
    "of another audience": lambda issuer: issuer.token(aud="another"),
    "of no audience": lambda issuer: issuer.token(aud=None),
    "of another issuer": lambda issuer: issuer.token(iss="https://another.example"),
    "of no issuer": lambda issuer: issuer.token(iss=None),
    "of nobody": lambda issuer: issuer.token(sub=None),
    "of a subject without a name": lambda issuer: issuer.token(sub=""),
    "of an endless subject": lambda issuer: issuer.token(sub="a" * 256),
    "of an unknown key": lambda issuer: Issuer("another").token(),
    "of a key without an id": lambda issuer: Issuer(None).token(),
    "signed by another under the id": lambda issuer: Issuer(issuer.kid).token(),
    "unsigned": unsigned,
    "signed with the public key": Issuer.forged,
    "altered": altered,
    "of another algorithm": lambda issuer: Issuer(issuer.kid, "RS256").token(),
    "with a number for a key id": lambda _: f"{part(NUMBER)}.e30.e30",
    "nested without end": deep,
    "no token": lambda _: "a.b.c",
    "empty parts": lambda _: "..",
}


@pytest.mark.parametrize("what", REFUSED)
async def test_what_is_refused(
    what: str, file: Path, issuer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    """What is not wholly good is refused like all else; the log says why, and no token."""
    token = REFUSED[what](issuer)
    async with naming(jwt_jwks=str(file), **WHO) as server:
        assert await refused(server, token)
        assert not await refused(server, issuer.token())

    assert len([r for r in caplog.records if "refused ipv4:" in r.getMessage()]) == 1
    assert token not in caplog.text


async def test_a_short_key_is_not_trusted(tmp_path: Path) -> None:
    """RSA keys of fewer than 2048 bits can be broken."""
    weak = Issuer(kind="RS256", bits=1024)
    file = write_keys(tmp_path / "keys.json", weak)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = weak.token()
    async with naming(jwt_jwks=str(file), **WHO) as server:
        assert await refused(server, token)


# Keys of a file


async def test_a_changed_key_file_is_read_again(file: Path, issuer: Issuer) -> None:
    """A new key is good at once, and a removed one no more; a broken file changes nothing."""
    new, broken = Issuer("second"), partial(file.write_text, "{")
    async with naming(jwt_jwks=str(file), **WHO) as server:
        assert await refused(server, new.token())
        write_keys(file, issuer, new)
        assert not await refused(server, new.token())
        broken()
        assert not await refused(server, issuer.token())
        write_keys(file, new)
        assert await refused(server, issuer.token())


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("{", "not a JWKS with a public key"),
        ("[]", "not a JWKS with a public key"),
        ('{"keys": []}', "not a JWKS with a public key"),
        ('{"keys": [{"kty": "RSA"}]}', "not a JWKS with a public key"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "holds no public key for signatures"),
    ],
)
def test_a_file_without_keys_is_refused(file: Path, content: str, fault: str) -> None:
    """A server does not start with keys that can prove nothing, or with a shared secret."""
    file.write_text(content)
    with pytest.raises(StartError) as wrong:
        KeyFile(str(file))

    assert str(wrong.value) == f"{file}: {fault}"


# Keys of a URL


class KeyServer:
    """An https: server of keys, which a test can change, break and count the fetches of."""

    def __init__(self, issuer: Issuer) -> None:
        self.issuers = [issuer]
        self.fetches = 0
        self.answer: Callable[[], web.Response] = self.keys
        self.url = ""

    def keys(self) -> web.Response:
        return web.json_response({"keys": [issuer.jwk for issuer in self.issuers]})

    async def handle(self, _: web.Request) -> web.Response:
        self.fetches += 1
        return self.answer()


@pytest.fixture
async def server(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[KeyServer]:
    """Keys by https:, from a server that this process trusts."""
    authority = Authority(tmp_path, "authority")
    monkeypatch.setenv("SSL_CERT_FILE", authority.file)
    pair = authority.pair("keys")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pair.cert_file, pair.key_file)
    made = KeyServer(issuer)
    app = web.Application()
    app.router.add_get("/keys", made.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    made.url = f"https://127.0.0.1:{runner.addresses[0][1]}/keys"
    yield made
    await runner.cleanup()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches may follow each other at once."""
    monkeypatch.setattr(keys, "PAUSE", 0)


async def test_keys_are_fetched_once(server: KeyServer, issuer: Issuer) -> None:
    """However many calls there are, the keys stay."""
    async with naming(jwt_jwks=server.url, **WHO) as named:
        for _ in range(20):
            assert not await refused(named, issuer.token())

    assert server.fetches == 1


async def test_unknown_keys_are_looked_for_at_a_bounded_rate(server: KeyServer) -> None:
    """A flood of tokens with invented key ids is no flood of fetches."""
    async with naming(jwt_jwks=server.url, **WHO) as named:
        strange = [Issuer(f"kid-{i}").token() for i in range(50)]
        assert all(await asyncio.gather(*(refused(named, token) for token in strange)))

    assert server.fetches == 1


async def test_looking_for_keys_takes_its_pauses(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One fetch a pause, however long the flood goes on."""
    pause = 0.2
    monkeypatch.setattr(keys, "PAUSE", pause)
    async with naming(jwt_jwks=server.url, **WHO) as named:
        begun, token = monotonic(), Issuer("another").token()
        while server.fetches < 2:
            assert await refused(named, token)
        for _ in range(100):
            assert await refused(named, token)

    assert server.fetches <= 2 + (monotonic() - begun) / pause


@pytest.mark.usefixtures("patience")
async def test_a_new_key_is_found(server: KeyServer, issuer: Issuer) -> None:
    """After a rotation no call with the new key fails, and all wait for the same fetch."""
    new = Issuer("second")
    async with naming(jwt_jwks=server.url, **WHO) as named:
        server.issuers.append(new)
        tokens = [new.token() for _ in range(20)]
        assert not any(await asyncio.gather(*(refused(named, token) for token in tokens)))
        assert server.fetches == 2


@pytest.mark.usefixtures("patience")
async def test_keys_that_grow_old_are_fetched_again(
    server: KeyServer, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that its issuer withdraws is good no longer, though no new one is asked for."""
    monkeypatch.setattr(keys, "OLD", 0.01)
    async with naming(jwt_jwks=server.url, **WHO) as named:
        server.issuers = [Issuer("second")]
        while not await refused(named, issuer.token()):
            pass


@pytest.mark.usefixtures("patience")
@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=500),
        lambda: web.Response(text="no keys"),
        lambda: web.Response(text="[" * 100_000),
        lambda: web.json_response({"keys": []}),
        lambda: web.Response(status=302, headers={"location": "http://127.0.0.1:1/keys"}),
    ],
    ids=["error", "text", "nests", "empty", "redirect"],
)
async def test_an_issuer_that_fails_takes_nothing_away(
    server: KeyServer,
    issuer: Issuer,
    answer: Callable[[], web.Response],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The keys that were there stay in use; a redirect, perhaps to another scheme, is a failure."""
    async with naming(jwt_jwks=server.url, **WHO) as named:
        server.answer = answer
        assert await refused(named, Issuer("second").token())
        assert not await refused(named, issuer.token())

    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert said.startswith(f"{server.url}: ")
    assert said.endswith("; the keys that were there before stay in use")


async def test_a_server_does_not_start_without_keys(server: KeyServer) -> None:
    """A URL that gives no keys is named at the start."""
    server.answer = lambda: web.Response(status=404)
    with pytest.raises(StartError, match=f"{server.url}: no keys to be had: .*404"):
        await KeyUrl(server.url).load()


async def test_a_stranger_with_the_issuers_address_is_not_believed(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys come from a server whose certificate this machine trusts, or not at all."""
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(StartError, match="CERTIFICATE_VERIFY_FAILED"):
        await KeyUrl(server.url).load()
