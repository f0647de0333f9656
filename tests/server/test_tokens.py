"""Static tokens: whom they prove, what a file may hold, and what is open without one."""

import asyncio
import logging
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from credentials import Naming, TokenFile, bearer, naming
from processes import run, serving
from support import calling, running, trailers
from talkwire import Unauthenticated
from talkwire_server.callers import IDENTITY, Caller
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import StartError
from talkwire_server.security.tokens import Tokens
from terminal import talkwire

GRPCURL = Path(sys.executable).with_name("grpcurl")

RIGHTS: dict[str, Any] = {
    "models": ["small"],
    "weight": 3,
    "max_running": 4,
    "tokens_per_minute": 60_000,
}


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.yaml")


def echo() -> EchoEngine:
    return EchoEngine(["echo"], "", 0)


async def refusal(server: Naming, *metadata: tuple[str, str]) -> grpc.aio.AioRpcError:
    """Return the status of a call that is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await server.ask(*metadata)
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    return refused.value


# Whom a token proves


async def test_both_clients_bring_a_token(kind: str, file: TokenFile) -> None:
    """With a token of the file all is as without; without one a call is UNAUTHENTICATED."""
    token = file.add("ada")
    async with running(echo(), token_file=str(file.path)) as server:
        async with calling(kind, server.target, token=token) as client:
            assert (await client.chat("hi")).text == "hi"
            assert [model.id for model in await client.call("models")] == ["echo"]
        async with calling(kind, server.target) as client:
            for call in (client.chat("hi"), client.call("models")):
                with pytest.raises(Unauthenticated) as refused:
                    await call
                assert refused.value.reason == "TOKEN_INVALID"


async def test_a_token_proves_a_name_and_its_rights(file: TokenFile) -> None:
    """The handler's caller is the file's entry, in unary calls and in streams."""
    plain, rich = file.add("ada"), file.add("batch", **RIGHTS)
    async with naming(token_file=str(file.path)) as server:
        assert await server.ask(*bearer(plain)) == repr(Caller(name="ada"))
        assert await server.stream(*bearer(rich)) == [repr(Caller(name="batch", **RIGHTS))] * 3


async def test_callers_are_not_confused(file: TokenFile) -> None:
    """Among hundreds of calls at once each has its own caller, and nothing is left behind."""
    tokens = {file.add(f"caller-{i}"): repr(Caller(name=f"caller-{i}")) for i in range(20)}
    async with naming(token_file=str(file.path)) as server:
        asked = [server.ask(*bearer(token)) for _ in range(10) for token in tokens]
        streamed = [server.stream(*bearer(token)) for token in tokens]
        assert await asyncio.gather(*asked) == [*tokens.values()] * 10
        assert await asyncio.gather(*streamed) == [[name] * 3 for name in tokens.values()]

    assert IDENTITY.get() is None


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", ""),),
        (("authorization", "Bearer"),),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer tw_wrong"),),
        (("authorization", "Basic {token}"),),
        (("authorization", "{token}"),),
        (("authorization", "Bearer {token} "),),
        (("authorization", "Bearer {token}"), ("authorization", "Bearer {token}")),
        (("authorization-bin", "Bearer {token}"),),
        (("x-authorization", "Bearer {token}"),),
    ],
)
async def test_all_that_is_no_token_is_refused_alike(
    file: TokenFile, metadata: tuple[tuple[str, str], ...], caplog: pytest.LogCaptureFixture
) -> None:
    """The status says what is needed and never what was wrong; the log has the peer, no token."""
    token = file.add("ada")
    sent = tuple((key, value.format(token=token)) for key, value in metadata)
    sent = tuple((k, v.encode() if k.endswith("-bin") else v) for k, v in sent)  # type: ignore[misc]
    async with naming(token_file=str(file.path)) as server:
        refused = await refusal(server, *sent)

    (record,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert refused.details() == "a valid token is needed, as metadata authorization: Bearer TOKEN"
    assert "refused ipv4:127.0.0.1:" in record.getMessage()
    assert token not in caplog.text


async def test_the_scheme_is_read_in_any_case(file: TokenFile) -> None:
    """`bearer` is as good as `Bearer`."""
    token = file.add("ada")
    async with naming(token_file=str(file.path)) as server:
        assert await server.ask(("authorization", f"bearer {token}")) == repr(Caller(name="ada"))


async def test_a_flood_of_refusals_does_not_fill_the_log(
    file: TokenFile, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names one a second and counts the others."""
    file.add("ada")
    async with naming(token_file=str(file.path)) as server:
        begun = asyncio.get_running_loop().time()
        for _ in range(200):
            await refusal(server)
        seconds = asyncio.get_running_loop().time() - begun

    assert 1 <= len([r for r in caplog.records if "refused " in r.getMessage()]) <= 1 + seconds


async def test_a_fault_of_the_server_is_no_fault_of_a_token(
    file: TokenFile, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should looking at tokens fail, calls are INTERNAL; the log has the stack once a second."""

    async def broken(_: Tokens, token: str) -> None:
        raise RuntimeError(token)

    token = file.add("ada")
    async with naming(token_file=str(file.path)) as server:
        monkeypatch.setattr(Tokens, "find", broken)
        begun = asyncio.get_running_loop().time()
        for _ in range(50):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await server.ask(*bearer(token))
        seconds = asyncio.get_running_loop().time() - begun

    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert token not in f"{failed.value.details()}"
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert said[0].exc_info
    assert 1 <= len(said) <= 1 + seconds


async def test_a_refused_request_is_not_read(file: TokenFile) -> None:
    """A request far over the size limit is refused for its token: nobody looked at the rest."""
    file.add("ada")
    async with (
        running(echo(), token_file=str(file.path), max_message_bytes=1000) as server,
        calling("async", server.target) as client,
    ):
        with pytest.raises(Unauthenticated):
            await client.chat("x" * 100_000)


async def test_metadata_has_a_limit(file: TokenFile) -> None:
    """A token longer than all metadata may be ends the call before the guard sees it."""
    token = file.add("ada")
    settings = {"token_file": str(file.path), "max_metadata_bytes": 4096}
    async with (
        running(echo(), **settings) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        call = channel.unary_unary("/talkwire.v1.ModelService/ListModels", None, None)
        assert await call(b"", metadata=(*bearer(token), ("x", "y" * 3000)))
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(b"", metadata=(*bearer(token), ("x", "y" * 4096)))

    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_nobody_ends_a_strangers_answer(file: TokenFile) -> None:
    """`Abort` knows the calls of its own caller alone, whatever ids others chose."""
    ada, bob = file.add("ada"), file.add("bob")
    slow = EchoEngine(["echo"], "", 0.02)
    async with (
        running(slow, token_file=str(file.path)) as server,
        calling("async", server.target, token=ada) as own,
        calling("async", server.target, token=bob) as stranger,
        own.stream("word " * 500, request_id="mine") as stream,
    ):
        await anext(aiter(stream))
        assert not await stranger.call("abort", "mine")
        assert await own.call("abort", "mine")
        assert (await stream.wait()).finish_reason == "aborted"


# The file


async def test_a_changed_file_is_read_again(file: TokenFile) -> None:
    """A new token is good at once, and a removed one no more; two of one name may overlap."""
    old = file.add("ada")
    async with naming(token_file=str(file.path)) as server:
        await server.ask(*bearer(old))
        new = file.add("ada")
        assert await server.ask(*bearer(new)) == await server.ask(*bearer(old))
        file.path.write_text(file.path.read_text().splitlines()[1])
        assert await server.ask(*bearer(new)) == repr(Caller(name="ada"))
        await refusal(server, *bearer(old))


@pytest.mark.parametrize(
    "content",
    [b"", b"- {name: a", b"- {name: ada}", b"- 2024-13-45", b"[" * 9999, b"\xff\xfe", None],
)
async def test_a_bad_change_keeps_the_old_tokens(
    file: TokenFile, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is half written, wrong or gone changes nothing, and is logged once."""
    token = file.add("ada")
    async with naming(token_file=str(file.path)) as server:
        file.path.unlink()
        if content is not None:
            file.path.write_bytes(content)
        for _ in range(3):
            assert await server.ask(*bearer(token)) == repr(Caller(name="ada"))

    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert said.startswith(f"{file.path}: ")
    assert said.endswith("; what was there before stays in use")


GOOD = sha256(b"token").hexdigest()


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "must be a list of tokens, as `talkwire token` writes it"),
        ("ada: secret", "must be a list of tokens, as `talkwire token` writes it"),
        ("- [", "not YAML"),
        ("- ada", "token 1: must be a mapping"),
        (
            f"- {{name: a b, sha256: '{GOOD}'}}",
            "token 1: name must be 1 to 64 of A-Z a-z 0-9 . _ -",
        ),
        ("- {name: ada, sha256: secret}", "token 1: sha256 must be 64 of 0-9 a-f"),
        (
            f"- {{name: ada, sha256: '{GOOD}', modles: [a], weight: 0, max_running: true}}\n"
            "- {name: bob}",
            "token 1: unknown key 'modles', weight must be a whole number >= 1, "
            "max_running must be a whole number >= 1; token 2: sha256 must be 64 of 0-9 a-f",
        ),
        (f"- {{name: ada, sha256: '{GOOD}'}}\n" * 2, "a token stands there twice"),
        (
            f"- {{name: ada, sha256: '{GOOD}', models: []}}",
            "token 1: models must be a list of model ids",
        ),
    ],
)
def test_faults_of_a_file_are_named_at_once(file: TokenFile, content: str, fault: str) -> None:
    """A server does not start with a bad file; it says all that is wrong in it."""
    file.path.write_text(content)
    with pytest.raises(StartError) as refused:
        Tokens(str(file.path))

    assert str(refused.value) == f"{file.path}: {fault}"


def test_the_command_makes_a_token_and_its_line(tmp_path: Path) -> None:
    """Standard output is a line of the file, and standard error the token that fits it."""
    made = talkwire("token", "ada")
    (entry,) = yaml.safe_load(made.out)
    token = made.err.strip()

    assert made.status == 0
    assert entry == {"name": "ada", "sha256": sha256(token.encode()).hexdigest()}
    assert len(token) >= 43  # 256 bits in base64
    assert talkwire("token", "ada").err != made.err
    assert talkwire("token", "a b").status == 2


# What is open


async def health(target: str) -> grpc.StatusCode:
    async with grpc.aio.insecure_channel(target) as channel:
        try:
            await channel.unary_unary("/grpc.health.v1.Health/Check", None, None)(b"")
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK


@pytest.mark.parametrize(
    ("is_open", "code"),
    [(True, grpc.StatusCode.OK), (False, grpc.StatusCode.UNAUTHENTICATED)],
)
async def test_health_is_open_unless_it_is_closed(
    file: TokenFile, is_open: bool, code: grpc.StatusCode
) -> None:
    """Probes bring no tokens; `--no-open-health` asks them, too, and clients bring theirs."""
    token = file.add("ada")
    async with running(echo(), token_file=str(file.path), open_health=is_open) as server:
        assert await health(server.target) is code
        for kind in ("async", "sync"):
            async with calling(kind, server.target, token=token) as client:
                assert await client.call("ready")


def test_reflection_is_closed_unless_it_is_opened(file: TokenFile) -> None:
    """The schema and the statistics want a token, but for reflection with `--open-reflection`."""
    token = file.add("ada")
    with_token = ("-H", f"authorization: Bearer {token}")
    with serving(f"--token-file={file.path}", "--channelz") as target:
        closed = run(GRPCURL, "-plaintext", target, "list")
        opened = run(GRPCURL, "-plaintext", *with_token, target, "list")
        method = "grpc.channelz.v1.Channelz/GetServers"
        watched = run(GRPCURL, "-plaintext", "-reflect-header", with_token[1], target, method)
    with serving(f"--token-file={file.path}", "--open-reflection") as target:
        public = run(GRPCURL, "-plaintext", target, "list")
        called = run(GRPCURL, "-plaintext", target, "talkwire.v1.ModelService/ListModels")

    assert "Unauthenticated" in closed.stderr
    assert "talkwire.v1.ChatService" in opened.stdout
    assert "Unauthenticated" in watched.stderr
    assert "talkwire.v1.ChatService" in public.stdout
    assert "Unauthenticated" in called.stderr


async def test_what_does_not_exist_wants_a_token_too(file: TokenFile) -> None:
    """Without a token nobody learns which methods there are."""
    token = file.add("ada")
    async with naming(token_file=str(file.path)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await server.ask(*bearer(token), method="nothing")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await server.ask(method="nothing")

    assert unknown.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert "grpc-status-details-bin" in trailers(refused.value)
