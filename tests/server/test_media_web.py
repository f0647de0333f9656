"""Media from hosts: whom the server talks to, how long, how much it takes, what it tells."""

import asyncio
import gzip
import io
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from PIL import Image

from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import MediaUnreadable, UnsupportedFeature
from talkwire_server.media import MediaStore
from talkwire_server.media.addresses import is_public
from talkwire_server.settings import Settings

_file = io.BytesIO()
Image.new("RGB", (8, 8), "red").save(_file, "PNG")
PNG = _file.getvalue()


def response(
    body: bytes = PNG, status: str = "200 OK", *headers: str, length: bool = True
) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close"]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


Answer: TypeAlias = bytes | Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Host:
    """A web server of few words: a path's answer is bytes, or a coroutine that writes them."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self.answers = answers
        self.seen: list[str] = []
        self.heads: list[str] = []
        self.open = 0
        self.most_open = 0
        self.port = 0
        self.changed = asyncio.Condition()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            self.seen.append(head.split(" ")[1])
            await self._notify()
            answer = self.answers[self.seen[-1]]
            if isinstance(answer, bytes):
                writer.write(answer)
            else:
                await answer(reader, writer)
            await writer.drain()
        writer.close()
        self.open -= 1
        await self._notify()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what this server has seen fulfils a condition."""
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(condition)

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()


@asynccontextmanager
async def hosting(
    answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Host]:
    """Serve answers by path on a free port of 127.0.0.1."""
    host = Host(answers)
    server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()


def ask(*uris: str) -> pb.ChatRequest:
    parts = [{"image": {"uri": uri}} for uri in uris]
    return make(pb.ChatRequest, messages=[{"parts": parts}])


def store(*origins: str, resolver: AbstractResolver | None = None, **settings: Any) -> MediaStore:
    return MediaStore(Settings(allowed_media_domains=origins, **settings), resolver)


async def faults(media: MediaStore, *uris: str) -> list[str]:
    """Return what is wrong with each; all must be."""
    with pytest.raises(MediaUnreadable) as refused:
        await media.resolve(ask(*uris))
    paths = [f"messages[0].parts[{i}].image.uri" for i in range(len(uris))]
    assert [v.field for v in refused.value.violations] == paths
    return [v.description for v in refused.value.violations]


# Whom


async def test_media_are_fetched_from_listed_hosts() -> None:
    """What is there comes back as bytes, in order, whatever the host says that it is."""
    async with hosting(
        {
            "/a": response(PNG, "200 OK", "Content-Type: text/html"),
            "/b?c=%26": response(PNG, length=False),
        }
    ) as host:
        at = f"http://127.0.0.1:{host.port}"
        answer = await store(at).resolve(ask(f"{at}/a", f"{at}/b?c=%26"))

    png = pb.Media(data=PNG, mime_type="image/png")
    assert [part.image for part in answer.messages[0].parts] == [png, png]
    assert all("user-agent: talkwire\r\n" in head.lower() for head in host.heads)


LISTED = ("allowed.example", "https://other.example:8443", "http://10.0.0.5:9000", "bücher.example")


@pytest.mark.parametrize(
    "uri",
    [
        "https://allowed.example/a.png",
        "https://allowed.example:443/a.png?b#c",
        "HTTPS://ALLOWED.Example/a.png",
        "https://other.example:8443/",
        "http://10.0.0.5:9000/",
        "https://bücher.example/",
        "https://xn--bcher-kva.example/",
        "https://BÜCHER.example/",
        "data:image/png;base64,AAAA",
    ],
)
def test_listed_origins_are_allowed(uri: str) -> None:
    """Case, default ports and punycode do not matter."""
    assert store(*LISTED).unsupported(ask(uri)) == []


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a.png",
        "//allowed.example/a.png",
        "https:/allowed.example/a.png",
        "https:allowed.example",
        "https://",
        "ftp://allowed.example/a.png",
        "file:///etc/passwd",
        "gopher://allowed.example",
        "javascript:alert(1)",
        "blob:https://allowed.example/1",
        " https://allowed.example/",
        "http://allowed.example/",
        "http://allowed.example:443/",
        "https://allowed.example:8443/",
        "https://other.example/",
        "https://10.0.0.5:9000/",
        "http://10.0.0.5/",
        "https://sub.allowed.example/",
        "https://allowed.example./",
        "https://allowed.example.evil.example/",
        "https://evilallowed.example/",
        "https://evil.example/allowed.example",
        "https://evil.example?allowed.example",
        "https://evil.example#@allowed.example",
        "https://allowed.example@evil.example/",
        "https://allowed.example%2f@evil.example/",
        "https://allowed.example:443@evil.example/",
        "https://user@allowed.example/",
        "https://user:password@allowed.example/",
        "https://:password@allowed.example/",
        "https://evil.example\\@allowed.example/",
        "https://allowed.example\\.evil.example/",
        "https://allowed.example\t.evil.example/",
        "https://allowed.example\0.evil.example/",
        "https://allowed.example:99999/",
        "https://[allowed.example]/",
        "https://аllowed.example/",  # noqa: RUF001  # a Cyrillic letter
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://localhost/",
        "https://169.254.169.254/latest/meta-data/",
        "https://allowed.example/" + "a" * 8192,
    ],
)
async def test_all_else_is_refused_by_name(uri: str) -> None:
    """Other schemes, hosts, ports, subdomains, and every trick of spelling; nothing is fetched."""
    media = store(*LISTED)
    request = ask("data:,", uri)

    assert media.unsupported(request) == ["messages[0].parts[1].image.uri"]
    with pytest.raises(UnsupportedFeature):
        await media.resolve(request)


def test_nothing_is_allowed_by_default() -> None:
    """A server whose operator lists nothing fetches and reads nothing."""
    uris = ["https://example.com/a.png", "http://127.0.0.1/", "file:///tmp/a.png"]

    assert len(MediaStore(Settings()).unsupported(ask(*uris))) == 3


def test_hosts_are_listed_as_hosts() -> None:
    """What could never be a host is refused when the server starts."""
    good = ("a.example", "a.example:8443", "http://[::1]:80", "https://bücher.example", "10.0.0.1")
    assert Settings(allowed_media_domains=good)
    for bad in ("https://a.example/", "*.example", "ftp://a.example", "u@a.example", "", "::1"):
        with pytest.raises(ValueError, match="--allowed-media-domains takes hosts"):
            Settings(allowed_media_domains=(*good, bad))


# Where


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("127.1.2.3", False),
        ("169.254.169.254", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::127.0.0.1", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b:1::1", False),
        ("2002:7f00:1::", False),
        ("2001:0:7f00:1::", False),
        ("fc00::1", False),
        ("fd00:ec2::254", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff0e::1", False),
    ],
)
def test_what_a_public_address_is(address: str, *, public: bool) -> None:
    """Only what is reachable by everyone, also when IPv4 is wrapped in IPv6."""
    assert is_public(address) is public


class Names(AbstractResolver):
    """Resolves every name to the next answer, as an attacker's DNS server may."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        kinds = {True: socket.AF_INET6, False: socket.AF_INET}
        return [
            ResolveResult(
                hostname=host, host=a, port=port, family=kinds[":" in a], proto=0, flags=0
            )
            for a in self.answers.pop(0)
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::ffff:127.0.0.1"],
        ["0.0.0.0"],  # which Linux takes for itself
        ["10.0.0.1", "169.254.169.254", "::1"],
    ],
    ids=" ".join,
)
async def test_a_name_for_a_private_address_leads_nowhere(addresses: list[str]) -> None:
    """A listed host whose name resolves to this machine or its network is not connected to."""
    async with hosting({"/": response()}) as host:
        at = f"http://allowed.example:{host.port}"
        names = Names(addresses)

        assert await faults(store(at, resolver=names), at) == ["cannot be fetched"]
        assert names.asked == ["allowed.example"]
        assert host.most_open == 0


async def test_a_name_that_changes_its_address_leads_nowhere() -> None:
    """DNS rebinding: what was public at first and private then is not connected to, either way."""
    async with hosting({"/": response()}) as host:
        at = f"http://allowed.example:{host.port}"
        names = Names(["192.88.99.1"], ["127.0.0.1"], ["192.88.99.1", "127.0.0.1"], ["127.0.0.1"])
        media = store(at, resolver=names, media_timeout=0.2)
        for _ in range(4):
            (fault,) = await faults(media, at)
            assert fault.startswith("cannot be fetched")

        assert names.answers == []
        assert host.most_open == 0


async def test_the_system_resolves_odd_spellings_but_they_lead_nowhere() -> None:
    """Even if the operator listed a loopback address in disguise, it is not connected to."""
    async with hosting({"/": response()}) as host:
        for name in ("2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1"):
            at = f"http://{name}:{host.port}"
            assert await faults(store(at), at) == ["cannot be fetched"]

        assert host.most_open == 0


async def test_what_the_operator_lists_may_be_private() -> None:
    """A literal address, localhost, and a name beside its address are the operator's wish."""
    async with hosting({"/": response()}) as host:
        at = f"http://minio.internal:{host.port}"
        by_name = store(at, f"http://127.0.0.1:{host.port}", resolver=Names(["127.0.0.1"]))
        assert await by_name.resolve(ask(at))
        for name in ("127.0.0.1", "localhost"):
            at = f"http://{name}:{host.port}"
            assert await store(at).resolve(ask(at))

        assert host.seen == ["/", "/", "/"]


async def test_redirects_are_not_followed() -> None:
    """Not even to a listed host: the answer is an error, and nobody else is asked."""
    async with hosting({"/target": response()}) as other:
        to = f"http://127.0.0.1:{other.port}/target"
        codes = (301, 302, 303, 307, 308)
        answers = {f"/{c}": response(PNG, f"{c} Moved", f"Location: {to}") for c in codes}
        async with hosting(
            {**answers, "/refresh": response(b"", "200 OK", f"Refresh: 0; {to}")}
        ) as host:
            at = f"http://127.0.0.1:{host.port}"
            media = store(at, f"http://127.0.0.1:{other.port}")
            found = await faults(media, *(f"{at}/{code}" for code in codes))
            empty = await faults(media, f"{at}/refresh")

        assert found == ["cannot be fetched"] * 5
        assert empty == ["is no PNG, JPEG, WebP, GIF, BMP or TIFF image"]
        assert other.seen == []


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server connects to the host itself."""
    async with hosting({}) as proxy, hosting({"/": response()}) as host:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        at = f"http://127.0.0.1:{host.port}"

        assert await store(at).resolve(ask(at))
        assert proxy.most_open == 0


# How long and how much


async def endless_head(_: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    await drip(writer, b"X-More: 1\r\n")


async def endless_body(_: Any, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    await drip(writer, b"x")


async def silence(reader: asyncio.StreamReader, _: Any) -> None:
    await reader.read()


async def drip(writer: asyncio.StreamWriter, drop: bytes) -> None:
    while True:
        writer.write(drop)
        await writer.drain()
        await asyncio.sleep(0.05)


async def test_slow_hosts_are_given_up() -> None:
    """A head or a body that drips, and silence, end together at the timeout."""
    slow: dict[str, Answer] = {"/head": endless_head, "/body": endless_body, "/silence": silence}
    async with hosting({**slow, "/fast": response()}) as host:
        at = f"http://127.0.0.1:{host.port}"
        media = store(at, media_timeout=0.3)
        async with asyncio.timeout(5):
            found = await faults(media, *(at + path for path in slow))
            with pytest.raises(MediaUnreadable) as refused:
                await media.resolve(ask(f"{at}/fast", f"{at}/silence"))
        await host.until(lambda: host.open == 0)

    assert found == ["cannot be fetched within 0.3 s"] * 3
    assert [v.field for v in refused.value.violations] == ["messages[0].parts[1].image.uri"]


async def test_large_bodies_are_given_up() -> None:
    """With a Content-Length nothing is read, and without one no more than may be."""
    sent = 0

    async def flood(_: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(bytes(1 << 16))
            await writer.drain()
            sent += 1 << 16

    async def chunks(_: Any, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            await writer.drain()

    async def length(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n")
        await reader.read()

    answers: dict[str, Answer] = {"/flood": flood, "/chunks": chunks, "/length": length}
    async with hosting({**answers, "/fits": response(PNG.ljust(1000, b"\0"))}) as host:
        at = f"http://127.0.0.1:{host.port}"
        media = store(at, max_media_bytes=1000)
        found = await faults(media, *(at + path for path in answers))
        assert await media.resolve(ask(f"{at}/fits"))
        await host.until(lambda: host.open == 0)

    assert found == ["has more than 1000 bytes"] * 3
    assert sent < 32 << 20  # what the kernel took


async def test_bodies_are_not_unpacked() -> None:
    """A compressed body is not asked for, and not unpacked: it could be of any size."""
    packed = response(gzip.compress(PNG), "200 OK", "Content-Encoding: gzip")
    async with hosting({"/": packed}) as host:
        at = f"http://127.0.0.1:{host.port}"

        assert await faults(store(at), at) == ["is no PNG, JPEG, WebP, GIF, BMP or TIFF image"]
    assert "accept-encoding: identity\r\n" in host.heads[0].lower()


async def test_fetches_run_together_but_not_all_at_once() -> None:
    """Forty media are fetched over eight connections at a time."""

    async def wait(_: Any, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.05)
        writer.write(response())

    async with hosting({"/": wait}) as host:
        at = f"http://127.0.0.1:{host.port}"
        answer = await store(at).resolve(ask(*[at] * 40))
        await host.until(lambda: host.open == 0)

    assert all(part.image.data == PNG for part in answer.messages[0].parts)
    assert host.most_open == 8


async def test_nothing_is_left_when_the_call_is_cancelled() -> None:
    """Cancellation closes the connections and ends the tasks."""
    before = asyncio.all_tasks()
    async with hosting({"/": endless_body}) as host:
        at = f"http://127.0.0.1:{host.port}"
        call = asyncio.create_task(store(at).resolve(ask(at, at, at)))
        await host.until(lambda: len(host.seen) == 3)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await host.until(lambda: host.open == 0)

    assert asyncio.all_tasks() - before == set()


# What it tells


async def hang_up(_: Any, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def test_nothing_that_a_host_says_gets_out() -> None:
    """Every failure of a host reads the same."""
    answers: dict[str, Answer] = {
        "/404": response(b"secret", "404 secret"),
        "/500": response(b"secret", "500 secret"),
        "/206": response(PNG, "206 Partial Content"),
        "/garbage": b"secret\r\n\r\n",
        "/header": b"HTTP/1.1 200 OK\r\nContent-Length: secret\r\n\r\n",
        "/long": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        "/cut": response(PNG).replace(PNG, PNG[:9]),
        "/hang-up": hang_up,
    }
    async with hosting(answers) as host:
        at = f"http://127.0.0.1:{host.port}"
        found = await faults(store(at), *(at + path for path in answers))

    assert found == ["cannot be fetched"] * len(answers)
    (gone,) = await faults(store(at), f"{at}/")
    (unknown,) = await faults(store("no.such.host.invalid"), "https://no.such.host.invalid/")
    assert (gone, unknown) == ("cannot be fetched", "cannot be fetched")


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that it signed itself, with its key."""
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=nobody -addext"
    subprocess.run(
        [*command.split(), "subjectAltName=IP:127.0.0.1", "-keyout", "key", "-out", "certificate"],
        cwd=file.parent,
        check=True,
        capture_output=True,
    )
    file.write_bytes(b"".join((file.parent / n).read_bytes() for n in ("key", "certificate")))
    return file


PROGRAM = """
import asyncio, sys
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import MediaUnreadable
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings
parts = [pb.Part(image=pb.Media(uri=uri)) for uri in sys.argv[1:]]
request = pb.ChatRequest(messages=[pb.Message(parts=parts)])
try:
    asyncio.run(MediaStore(Settings(allowed_media_domains=sys.argv[1:])).resolve(request))
except MediaUnreadable as error:
    print(error.message)
"""


async def test_certificates_are_verified(certificate: Path) -> None:
    """An unknown issuer or another name end the fetch; an issuer that the system knows is fine."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with hosting({"/": response()}, tls) as host:
        said = []
        for trust in ({}, {"SSL_CERT_FILE": str(certificate)}):
            uris = [f"https://{name}:{host.port}" for name in ("127.0.0.1", "localhost")]
            program = await asyncio.create_subprocess_exec(
                *(sys.executable, "-W", "error", "-c", PROGRAM, *uris),
                env={**os.environ, **trust},
                stdout=subprocess.PIPE,
            )
            output, _ = await program.communicate()
            said.append(output.decode().strip().split("; "))

    by_address, by_name = (f"messages[0].parts[{i}].image.uri: cannot be fetched" for i in (0, 1))
    assert said == [[by_address, by_name], [by_name]]
    assert host.seen == ["/"]
