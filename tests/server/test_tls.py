"""TLS: who may connect, how certificates are replaced, and what a bad one says at the start."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from certificates import DAY, Authority, Pair
from processes import launched
from support import calling, running
from talkwire import TLS, ConnectError
from talkwire_server import callers
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import StartError
from talkwire_server.security import tls
from talkwire_server.settings import Settings

AT_ONCE: dict[str, Any] = {"wait_for_ready": False, "retry": None}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def pair(authority: Authority) -> Pair:
    return authority.pair("server")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "other")


def files(pair: Pair, **more: Any) -> dict[str, Any]:
    """Settings of a server with a certificate."""
    return {"tls_cert_file": pair.cert_file, "tls_key_file": pair.key_file, **more}


def replace(old: Pair, new: Pair) -> None:
    """Put another certificate where one was, the key last."""
    shutil.copyfile(new.cert_file, old.cert_file)
    shutil.copyfile(new.key_file, old.key_file)


def echo() -> EchoEngine:
    return EchoEngine(["echo"], "", 0)


@asynccontextmanager
async def naming(settings: Settings) -> AsyncIterator[int]:
    """Serve, with a server's credentials, one method that tells who calls; yield its port."""

    async def whoami(_: bytes, context: Any) -> bytes:
        return callers.caller(context).name.encode()

    methods = {"whoami": grpc.unary_unary_rpc_method_handler(whoami)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test", methods),))
    credentials = tls.credentials(settings)
    assert credentials
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


# Coming in


async def test_both_clients_chat_over_tls(kind: str, authority: Authority, pair: Pair) -> None:
    """With the authority that signed the server's certificate, all is as without TLS."""
    async with (
        running(echo(), **files(pair)) as server,
        calling(kind, server.target, tls=TLS(authority.file)) as client,
    ):
        assert (await client.chat("over TLS")).text == "over TLS"


async def test_both_clients_show_a_certificate_of_their_own(
    kind: str, authority: Authority, pair: Pair
) -> None:
    """With `--tls-client-ca-file` a client comes in with a certificate, and not without."""
    own = authority.pair("ada")
    settings = files(pair, tls_client_ca_file=authority.file)
    with_one, without = TLS(authority.file, own.cert_file, own.key_file), TLS(authority.file)
    async with running(echo(), **settings) as server:
        async with calling(kind, server.target, tls=with_one) as client:
            assert (await client.chat("hi")).text == "hi"
        async with calling(kind, server.target, tls=without, **AT_ONCE) as client:
            with pytest.raises(ConnectError):
                await client.chat("hi")


@pytest.mark.parametrize(
    ("common", "names", "caller"),
    [
        ("ada", (), "ada"),
        ("ada", (x509.UniformResourceIdentifier("spiffe://here/ada"),), "spiffe://here/ada"),
        ("ada", (x509.DNSName("ada.example"), x509.DNSName("b.example")), "ada.example"),
        ("line\nINFO another 100%", (), "line%0AINFO%20another%20100%25"),
    ],
)
async def test_a_certificate_names_who_calls(
    authority: Authority,
    pair: Pair,
    common: str,
    names: tuple[x509.GeneralName, ...],
    caller: str,
) -> None:
    """Its first alternative name, else its common name; spelled so that no log breaks by it."""
    own = authority.pair(common, names)
    settings = Settings(**files(pair, tls_client_ca_file=authority.file))
    credentials = TLS(authority.file, own.cert_file, own.key_file).credentials()
    async with (
        naming(settings) as port,
        grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel,
    ):
        assert await channel.unary_unary("/test/whoami", None, None)(b"") == caller.encode()


# Replacing


async def chats(target: str, authority: Authority) -> bool:
    """Tell whether a new connection finds a certificate that this authority signed."""
    alone = (("grpc.use_local_subchannel_pool", 1),)
    files = TLS(authority.file)
    async with calling("async", target, tls=files, channel_options=alone, **AT_ONCE) as one:
        try:
            return bool((await one.chat("hi")).text == "hi")
        except ConnectError:
            return False


async def test_a_replaced_certificate_is_used_at_once(
    kind: str, authority: Authority, pair: Pair, other: Authority
) -> None:
    """The next connection meets the new certificate, and the old connection lives on."""
    async with (
        running(echo(), **files(pair)) as server,
        calling(kind, server.target, tls=TLS(authority.file)) as client,
    ):
        await client.chat("hi")
        replace(pair, other.pair("server"))

        assert await chats(server.target, other)
        assert not await chats(server.target, authority)
        assert (await client.chat("still here")).text == "still here"


async def test_the_authority_of_clients_is_replaced_too(
    authority: Authority, pair: Pair, other: Authority
) -> None:
    """Clients of the new authority come in, those of the old one no more."""
    ca_file = shutil.copyfile(authority.file, f"{authority.file}.copy")
    old, new = authority.pair("ada"), other.pair("ada")
    known = []
    async with running(echo(), **files(pair, tls_client_ca_file=ca_file)) as server:
        shutil.copyfile(other.file, ca_file)
        for own in (old, new):
            tls = TLS(authority.file, own.cert_file, own.key_file)
            async with calling("async", server.target, tls=tls, **AT_ONCE) as client:
                try:
                    known.append((await client.chat("hi")).text)
                except ConnectError:
                    known.append("refused")

    assert known == ["refused", "hi"]


async def test_a_half_written_pair_changes_nothing(
    authority: Authority, pair: Pair, other: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """The old pair stays in use until the new one is whole, and the log says so once."""
    new = other.pair("server")
    async with running(echo(), **files(pair)) as server:
        shutil.copyfile(new.cert_file, pair.cert_file)
        for _ in range(3):
            assert await chats(server.target, authority)
        shutil.copyfile(new.key_file, pair.key_file)
        assert await chats(server.target, other)

    said = [record.message for record in caplog.records if "stays in use" in record.message]
    assert said == [
        f"{pair.key_file}: not the key of the first certificate in {pair.cert_file}; "
        "what was there before stays in use"
    ]


# What is wrong at the start


def test_files_that_cannot_be_used_are_named(
    authority: Authority, pair: Pair, tmp_path: Path
) -> None:
    """A server does not start with a bad file; it says which, and why."""
    past, future = (authority.pair("server", valid=v) for v in ((-2 * DAY, -DAY), (DAY, 2 * DAY)))
    text = tmp_path / "text"
    text.write_text("no PEM")
    cert, key = pair.cert_file, pair.key_file
    wrong: list[tuple[Pair, str | None, str]] = [
        (Pair("/nowhere", key), None, "/nowhere: cannot be read: No such file or directory"),
        (Pair(str(text), key), None, f"{text}: not a PEM certificate"),
        (Pair(key, key), None, f"{key}: not a PEM certificate"),
        (Pair(cert, str(text)), None, f"{text}: not a PEM key"),
        (Pair(cert, past.key_file), None, f"{past.key_file}: not the key of the first certificate"),
        (past, None, f"{past.cert_file}: expired on 20"),
        (future, None, f"{future.cert_file}: not valid before 20"),
        (pair, str(text), f"{text}: not a PEM certificate"),
    ]
    for files_, ca_file, said in wrong:
        with pytest.raises(StartError) as refused:
            tls.credentials(Settings(**files(files_, tls_client_ca_file=ca_file)))
        assert str(refused.value).startswith(said)


def test_an_encrypted_key_is_refused(pair: Pair) -> None:
    """Nobody is there to type its password."""
    key = load_pem_private_key(Path(pair.key_file).read_bytes(), None)
    password = BestAvailableEncryption(b"secret")
    Path(pair.key_file).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, password))
    with pytest.raises(StartError, match="encrypted; gRPC asks for no password"):
        tls.credentials(Settings(**files(pair)))


def test_a_kind_of_key_that_no_client_would_meet_is_refused(pair: Pair) -> None:
    """With an Ed25519 key the server would start, and every handshake fail."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    Path(pair.key_file).write_bytes(private)
    with pytest.raises(StartError, match="gRPC takes RSA and ECDSA keys alone"):
        tls.credentials(Settings(**files(pair)))


# Listening beyond this machine


TLS_FILES = {"tls_cert_file": "c", "tls_key_file": "k"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "unix:/tmp/socket"])
def test_this_machine_needs_no_protection(host: str) -> None:
    """On loopback and on a Unix socket a server listens without TLS and tokens."""
    assert Settings(host=host).exposed == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "talkwire.example"])
@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({}, ["--tls-cert-file", "--token-file"]),
        ({"token_file": "t"}, ["--tls-cert-file"]),
        (TLS_FILES, ["--token-file"]),
        ({**TLS_FILES, "token_file": "t"}, []),
        ({**TLS_FILES, "jwt_jwks": "j", "jwt_issuer": "i", "jwt_audience": "a"}, []),
        ({**TLS_FILES, "tls_client_ca_file": "c"}, []),
    ],
)
def test_other_machines_need_tls_and_somebody_to_be(
    host: str, given: dict[str, Any], missing: list[str]
) -> None:
    """A server that others reach wants TLS, and to know who calls; else to be told that it may."""
    exposed = Settings(host=host, allow_insecure=True, **given).exposed

    assert [flag for flag in ("--tls-cert-file", "--token-file") if flag in exposed] == missing
    if missing:
        with pytest.raises(ValueError, match="--allow-insecure"):
            Settings(host=host, **given)
    else:
        assert Settings(host=host, **given)


def test_an_exposed_server_does_not_start_unasked() -> None:
    """`talkwire serve` ends with the status of wrong usage, and says what to do."""
    with launched("--host=0.0.0.0") as server:
        status, log = server.ends()

    assert status == 2
    assert log.splitlines()[-1] == (
        "talkwire serve: error: on --host 0.0.0.0 other machines could read along (no "
        "--tls-cert-file) and call unasked (no --token-file, --jwt-jwks or --tls-client-ca-file); "
        "--allow-insecure permits it"
    )


def test_an_exposed_server_says_so_in_its_log() -> None:
    """With `--allow-insecure` it starts, with a warning."""
    with launched("--host=0.0.0.0", "--allow-insecure") as server:
        assert " WARNING on --host 0.0.0.0 other machines could " in server.logs("WARNING")


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ({"tls_cert_file": "c"}, "--tls-cert-file and --tls-key-file need each other"),
        ({"tls_client_ca_file": "c"}, "--tls-client-ca-file needs --tls-cert-file"),
        ({"jwt_jwks": "j"}, "--jwt-jwks, --jwt-issuer and --jwt-audience need one another"),
        (
            {"jwt_jwks": "http://a/", "jwt_issuer": "i", "jwt_audience": "a"},
            "--jwt-jwks takes a file or an https: URL",
        ),
    ],
)
def test_flags_that_need_others_name_them(given: dict[str, Any], fault: str) -> None:
    """What has no use alone is refused before anything starts."""
    with pytest.raises(ValueError, match=fault):
        Settings(**given)
