"""Who knocks without the right certificate or token, and what each gets.

Lost is, in the table, what reached the engine of a caller who was kept out, or did not of another.
"""

import asyncio
import shutil
import ssl
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from time import time
from typing import Any

import jwt
import pytest
from cryptography import x509

from certificates import DAY, Authority, Pair
from credentials import AUDIENCE, ISSUER, Issuer, TokenFile, write_keys
from fault_table import Table
from processes import run, serving
from support import RunningServer, calling, running
from talkwire import TLS, ConnectError, Error, PermissionDenied, Unauthenticated
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call, Delta, Prompt

GRPCURL = Path(sys.executable).with_name("grpcurl")
LIVES = 5  # seconds, of a certificate that expires while its server runs


class Counting(EchoEngine):
    """The echo engine, and how often anything reached it."""

    def __init__(self) -> None:
        super().__init__(["small", "large"], "", 0)
        self.reached = 0

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        self.reached += 1
        async for delta in super().stream(call):
            yield delta

    async def render(self, call: Call) -> Prompt:
        self.reached += 1
        return await super().render(call)


class Place:
    """The authority, its files and its tokens, of one test."""

    def __init__(self, folder: Path, table: Table) -> None:
        self.table = table
        self.authority = Authority(folder, "authority")
        self.other = Authority(folder, "other")
        self.pair = self.authority.pair("server")
        self.trusted = TLS(self.authority.file)
        self.tokens = TokenFile(folder / "tokens.yaml")
        self.token = self.tokens.add("ada", models=["small"])
        self.issuer = Issuer()
        self.keys = write_keys(folder / "keys.json", self.issuer)

    def tls(self, pair: Pair | None = None) -> dict[str, Any]:
        """Settings of a server with TLS."""
        pair = pair or self.pair
        return {"tls_cert_file": pair.cert_file, "tls_key_file": pair.key_file}

    def tokens_too(self) -> dict[str, Any]:
        """Settings of a server with TLS, static tokens and JWTs."""
        who = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": str(self.keys)}
        return {**self.tls(), "token_file": str(self.tokens.path), **who}

    def own(self, authority: Authority, **valid: Any) -> TLS:
        """A client's files, with a certificate of its own."""
        pair = authority.pair("ada", **valid)
        return TLS(self.authority.file, pair.cert_file, pair.key_file)


@pytest.fixture
def place(tmp_path: Path, table: Table) -> Place:
    return Place(tmp_path, table)


class Knocking:
    """Tries to come in, in one way after another, and writes down what it got."""

    def __init__(self, kind: str, server: RunningServer, door: str, table: Table) -> None:
        assert isinstance(server.engine, Counting)
        self._kind = kind
        self._target = server.target
        self._engine = server.engine
        self._door = door
        self._table = table

    async def get(self, who: str, model: str = "small", **options: Any) -> type[Error] | None:
        """Chat, stream and count; return how all three failed. Nothing may reach the engine."""
        before = self._engine.reached
        options = {"wait_for_ready": False, "retry": None, "timeout": 20, **options}
        methods = ("chat", "stream", "count_tokens")
        async with calling(self._kind, self._target, **options) as client:
            failures = [await _failure(client, method, model) for method in methods]
        reached = self._engine.reached - before
        (kind,) = {type(failure) if failure else None for failure in failures}
        lost = reached if kind else 3 - reached
        self._table.add(f"door: {self._door}", who, 3, lost, kind.__name__ if kind else "answered")
        assert reached == (0 if kind else 3)
        return kind


async def _failure(client: Any, method: str, model: str) -> Error | None:
    try:
        if method == "stream":
            async with client.stream("hi", model=model) as stream:
                await stream.wait()
        else:
            await client.call(method, "hi", model=model)
    except Error as error:
        return error
    return None


async def test_what_tls_keeps_out(kind: str, place: Place) -> None:
    """A stranger to either side's authority, in time or out of it, gets no connection."""
    async with running(Counting()) as server:
        plain = Knocking(kind, server, "plain", place.table)
        assert await plain.get("without TLS") is None
        assert await plain.get("with TLS", tls=place.trusted) is ConnectError
    async with running(Counting(), **place.tls()) as server:
        tls = Knocking(kind, server, "tls", place.table)
        assert await tls.get("with the right authority", tls=place.trusted) is None
        assert await tls.get("without TLS") is ConnectError
        assert await tls.get("with another authority", tls=TLS(place.other.file)) is ConnectError
    elsewhere = place.authority.pair("server", (x509.DNSName("elsewhere.example"),))
    async with running(Counting(), **place.tls(elsewhere)) as server:
        named = Knocking(kind, server, "tls", place.table)
        assert await named.get("to another name", tls=place.trusted) is ConnectError


async def test_a_certificate_that_expires_while_it_serves(kind: str, place: Place) -> None:
    """Clients refuse it, and come back when it was replaced, without a restart."""
    soon = place.authority.pair("server", valid=(-DAY, timedelta(seconds=LIVES)))
    async with running(Counting(), **place.tls(soon)) as server:
        door = Knocking(kind, server, "tls", place.table)
        await asyncio.sleep(LIVES + 1)
        assert await door.get("when it has expired", tls=place.trusted) is ConnectError
        shutil.copyfile(place.pair.cert_file, soon.cert_file)
        shutil.copyfile(place.pair.key_file, soon.key_file)
        assert await door.get("when it was replaced", tls=place.trusted) is None


async def test_what_client_certificates_keep_out(kind: str, place: Place) -> None:
    """With `--tls-client-ca-file` who shows no certificate, or no good one, gets no connection."""
    ca = {"tls_client_ca_file": place.authority.file}
    async with running(Counting(), **place.tls(), **ca) as server:
        door = Knocking(kind, server, "mtls", place.table)
        expired, early = (-2 * DAY, -DAY), (DAY, 2 * DAY)
        for who, files, kept_out in (
            ("with a certificate", place.own(place.authority), False),
            ("with none", place.trusted, True),
            ("of another authority", place.own(place.other), True),
            ("with an expired one", place.own(place.authority, valid=expired), True),
            ("with one not yet valid", place.own(place.authority, valid=early), True),
        ):
            assert await door.get(who, tls=files) is (ConnectError if kept_out else None)


async def test_what_tokens_keep_out(kind: str, place: Place) -> None:
    """A token that is not wholly good is UNAUTHENTICATED; a good one's rights are kept, too."""
    issuer, rights = place.issuer, {"models": ["small"]}
    async with running(Counting(), **place.tokens_too()) as server:
        door = Knocking(kind, server, "token", place.table)
        for who, token in (
            ("without a token", None),
            ("with a wrong one", "tw_wrong"),
            ("with its hash", place.tokens.path.read_text().split('"')[7]),
            ("JWT: expired", issuer.token(exp=time() - 60)),
            ("JWT: not yet valid", issuer.token(nbf=time() + 60)),
            ("JWT: for another audience", issuer.token(aud="another")),
            ("JWT: from another issuer", issuer.token(iss="https://another.example")),
            ("JWT: of another's key", Issuer(issuer.kid).token()),
            ("JWT: of an unknown key", Issuer("unknown").token()),
            ("JWT: unsigned", jwt.encode(issuer.claims(), "", "none", {"kid": issuer.kid})),
            ("JWT: signed with the public key", issuer.forged()),
        ):
            assert await door.get(who, tls=place.trusted, token=token) is Unauthenticated
        for who, token in (
            ("with a token", place.token),
            ("JWT: good", issuer.token(talkwire=rights)),
        ):
            assert await door.get(who, tls=place.trusted, token=token) is None
            who = f"{who}, the wrong model"
            kept_out = await door.get(who, "large", tls=place.trusted, token=token)
            assert kept_out is PermissionDenied


@pytest.mark.parametrize("door", ["plain", "tls"])
@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n"])
async def test_who_says_nothing_is_sent_away(place: Place, door: str, said: bytes) -> None:
    """A connection that never gets to speak HTTP/2 costs no more than `--handshake-timeout`."""
    settings = place.tls() if door == "tls" else {}
    async with running(Counting(), handshake_timeout=1, **settings) as server:
        reader, writer = await asyncio.open_connection(*server.target.split(":"))
        writer.write(said)
        with suppress(ConnectionError):
            await reader.read()  # to its end, which a silent server would never make
        writer.close()


def test_grpcurl_comes_in_with_tls_and_a_token(place: Place) -> None:
    """Any gRPC tool does, by the metadata `authorization`; and not without."""
    files = [f"--{name.replace('_', '-')}={value}" for name, value in place.tls().items()]
    with serving(
        *files, f"--token-file={place.tokens.path}", "--served-model-name=small"
    ) as target:
        trusting = (GRPCURL, "-cacert", place.authority.file, "-d", '{"query": "hi"}')
        token = ("-H", f"authorization: Bearer {place.token}")
        chat = (target, "talkwire.v1.ChatService/Chat")
        answered = run(*trusting, *token, *chat)
        without_token = run(*trusting, *chat)
        plain = run(GRPCURL, "-plaintext", *token, "-max-time", "2", *chat)

    assert '"text": "hi"' in answered.stdout
    assert "Unauthenticated" in without_token.stderr
    assert (plain.returncode, plain.stdout) == (1, "")


# Rotation


def pairs(place: Place) -> Iterator[Pair]:
    while True:
        yield place.authority.pair("server")


async def connect(target: str, place: Place, stop: asyncio.Event) -> list[Error | None]:
    """Chat over one new connection after another until told to stop; return what failed."""
    outcomes: list[Error | None] = []
    options: dict[str, Any] = {"tls": place.trusted, "retry": None}
    options["channel_options"] = (("grpc.use_local_subchannel_pool", 1),)
    while not stop.is_set():
        async with calling("async", target, **options) as client:
            outcomes.append(await _failure(client, "chat", "small"))
    return outcomes


async def words(target: str, place: Place, count: int) -> int:
    """Read one long answer over one connection; return its length in words."""
    async with calling("async", target, tls=place.trusted) as client:
        return len((await client.chat("word " * count)).text.split())


async def test_rotation_under_load_loses_no_call(place: Place) -> None:
    """Each of ten new certificates is served, written in two steps, and nobody notices."""
    engine, stop, served = EchoEngine(["small"], "", 0.005), asyncio.Event(), set()
    async with running(engine, **place.tls()) as server:
        host, port = server.target.split(":")
        load = [asyncio.create_task(connect(server.target, place, stop)) for _ in range(4)]
        long = asyncio.create_task(words(server.target, place, 300))
        for _, new in zip(range(10), pairs(place), strict=False):
            shutil.copyfile(new.cert_file, place.pair.cert_file)
            await asyncio.sleep(0.1)  # connections are made while it does not fit its key
            shutil.copyfile(new.key_file, place.pair.key_file)
            served.add(await asyncio.to_thread(ssl.get_server_certificate, (host, int(port))))
            await asyncio.sleep(0.1)
        stop.set()
        outcomes = [outcome for task in load for outcome in await task]
        assert await long == 300

    failed = [error for error in outcomes if error]
    seen = f"{len(served)} certificates"
    place.table.add("door: tls", "new connections under rotation", len(outcomes), len(failed), seen)
    assert (len(served), failed) == (10, [])
    assert len(outcomes) > 20
