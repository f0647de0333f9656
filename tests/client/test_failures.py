"""From statuses to exceptions, through real servers that fail on purpose."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

import talkwire
from multiplexing import Multiplexing
from processes import ServerProcess, launched
from support import RunningServer, calling, make
from talkwire import TLS, AsyncClient, Client, Retry
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server.admission import Admission
from talkwire_server.chat_service import ChatService
from talkwire_server.echo import EchoEngine
from talkwire_server.journal import Journal
from talkwire_server.open_calls import OpenCalls
from talkwire_server.settings import Settings

Code = grpc.StatusCode

STARTS = 64


class Failing(Multiplexing):
    """Fails every chat with one status, and counts the attempts."""

    def __init__(self, code: grpc.StatusCode, *trailers: tuple[str, Any], text: str = "no") -> None:
        self.attempts = 0
        self._code = code
        self._text = text
        self._trailers = trailers

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        """Fail."""
        self.attempts += 1
        await context.abort(self._code, self._text, trailing_metadata=self._trailers)
        raise AssertionError

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        """Say one word, then fail."""
        self.attempts += 1
        yield pb.ChatStreamResponse(text="one", id="i", model="m")
        await context.abort(self._code, self._text, trailing_metadata=self._trailers)


@asynccontextmanager
async def failing(service: Any) -> AsyncIterator[str]:
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (Code.INVALID_ARGUMENT, talkwire.InvalidRequest),
        (Code.NOT_FOUND, talkwire.ModelNotFound),
        (Code.FAILED_PRECONDITION, talkwire.Unsupported),
        (Code.UNIMPLEMENTED, talkwire.Unsupported),
        (Code.ALREADY_EXISTS, talkwire.RequestIdInUse),
        (Code.UNAUTHENTICATED, talkwire.Unauthenticated),
        (Code.PERMISSION_DENIED, talkwire.PermissionDenied),
        (Code.RESOURCE_EXHAUSTED, talkwire.Overloaded),
        (Code.UNAVAILABLE, talkwire.ConnectError),
        (Code.DEADLINE_EXCEEDED, talkwire.Timeout),
        (Code.INTERNAL, talkwire.ServerError),
        (Code.UNKNOWN, talkwire.ServerError),
    ],
)
async def test_each_status_is_an_exception(
    kind: str, code: grpc.StatusCode, expected: type[talkwire.Error]
) -> None:
    """A status without details maps by its code, in both clients; but for CANCELLED, see below."""
    service = Failing(code)  # type: ignore[abstract]
    async with failing(service) as target, calling(kind, target, retry=None) as caller:
        with pytest.raises(talkwire.Error) as caught:
            await caller.chat("x")

    assert type(caught.value) is expected
    assert (caught.value.code, caught.value.reason, service.attempts) == (code, "", 1)
    assert (caught.value.request_id, caught.value.retry_after) == ("", None)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (Code.INTERNAL, "Received RST_STREAM with error code 2"),
        (Code.UNKNOWN, "Received http2 header with status: 500"),
    ],
)
async def test_what_a_proxy_lost_was_lost(kind: str, code: grpc.StatusCode, text: str) -> None:
    """GRPC's words of a proxy that lost its server: `Unavailable`, which `resume` goes on after."""
    service = Failing(code, text=text)  # type: ignore[abstract]
    async with (
        failing(service) as target,
        calling(kind, target, retry=None) as caller,
        caller.stream("x") as stream,
    ):
        with pytest.raises(talkwire.ConnectError, match=f"lost the connection to .*: {text}"):
            await stream.wait()


async def test_what_nobody_here_cancelled_was_lost(kind: str) -> None:
    """GRPC ends calls as CANCELLED when a server leaves: `Unavailable`, not `Cancelled`."""
    service = Failing(Code.CANCELLED)  # type: ignore[abstract]
    async with failing(service) as target, calling(kind, target, retry=None) as caller:
        with pytest.raises(talkwire.ConnectError, match=r"no connection to .*: no$") as refused:
            await caller.chat("x")
        async with caller.stream("x") as stream:
            with pytest.raises(talkwire.ConnectError, match="lost the connection to") as broken:
                await stream.wait()

    assert refused.value.code is broken.value.code is Code.UNAVAILABLE
    assert isinstance(refused.value.__cause__, grpc.RpcError)
    assert broken.value.partial
    assert broken.value.partial.text == "one"


async def test_a_server_may_cancel_for_a_reason(kind: str) -> None:
    """Then it is `Cancelled`, with the reason."""
    status = status_pb2.Status(code=Code.CANCELLED.value[0])
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OTHERWISE_ENGAGED"))
    service = Failing(Code.CANCELLED, ("grpc-status-details-bin", status.SerializeToString()))  # type: ignore[abstract]
    async with failing(service) as target, calling(kind, target) as caller:
        with pytest.raises(talkwire.Cancelled) as caught:
            await caller.chat("x")

    assert (caught.value.code, caught.value.reason) == (Code.CANCELLED, "OTHERWISE_ENGAGED")


async def begin(caller: Any, server: ServerProcess, i: int) -> None:
    """Ask, as one of many; have the server leave in their midst."""
    await asyncio.sleep(i / 1000)
    if i == STARTS // 2:
        server.signal(signal.SIGTERM)
    if i % 2:
        assert (await caller.chat("x x")).text == "x x"
    else:
        async with caller.stream("x x") as stream:
            assert ((await stream.wait()).text, stream.resumed) == ("x x", 0)


async def test_no_call_is_cancelled_by_a_server_that_leaves(kind: str) -> None:
    """Of 64 that begin while it goes, all are answered or `Unavailable`."""

    async def ask(i: int) -> None:
        with suppress(talkwire.Unavailable):
            await begin(caller, server, i)

    with launched("--grace=0") as server:
        async with calling(kind, server.target, retry=None, wait_for_ready=False) as caller:
            await caller.chat("x")
            await asyncio.gather(*(ask(i) for i in range(STARTS)))


async def test_calls_that_a_leaving_server_never_saw_are_made_elsewhere(kind: str) -> None:
    """Of 64 that begin while it goes, the other server answers all that it does not."""
    with launched("--grace=100") as server, launched() as other:
        targets = [server.target, other.target]
        async with calling(kind, targets, balance="first") as caller:
            await caller.chat("x")
            await asyncio.gather(*(begin(caller, server, i) for i in range(STARTS)))


class Leaving(Multiplexing):
    """Ends every call as one that leaves, but for each third."""

    def __init__(self) -> None:
        self.requests: list[pb.ChatRequest] = []

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        """Answer, sometimes."""
        await self._hear(request, context)
        return pb.ChatResponse()

    async def ChatStream(
        self, request: pb.ChatRequest, context: Any
    ) -> AsyncIterator[pb.ChatStreamResponse]:
        """Answer, sometimes."""
        await self._hear(request, context)
        yield pb.ChatStreamResponse(id="i", usage=pb.Usage())

    async def _hear(self, request: pb.ChatRequest, context: Any) -> None:
        self.requests.append(request)
        if len(self.requests) % 3:
            await context.abort(Code.CANCELLED, "gone")


@pytest.mark.parametrize("resume", [False, True])
async def test_calls_that_were_not_seen_are_tried_so_often(kind: str, resume: bool) -> None:
    """As often as `Retry` says, then they fail; they are the same each time."""
    service = Leaving()  # type: ignore[abstract]
    async with failing(service) as target:
        async with calling(kind, target, resume=resume, retry=Retry(attempts=3)) as caller:
            await caller.chat("x")
            async with caller.stream("x") as stream:
                answer = await stream.wait()
        async with calling(kind, target, resume=resume, retry=Retry(attempts=2)) as caller:
            with pytest.raises(talkwire.ConnectError):
                await caller.chat("x")

    assert (answer.id, stream.id, stream.resumed, len(service.requests)) == ("i", "i", 0, 8)
    for request in service.requests:
        request.ClearField("request_id")  # a multiplexed call's own
    assert all(request == service.requests[0] for request in service.requests)


async def test_details_are_read(kind: str) -> None:
    """Reason, metadata, violations and the delay come from google.rpc's details."""
    status = status_pb2.Status(code=Code.UNAVAILABLE.value[0])
    for detail in (
        error_details_pb2.ErrorInfo(reason="SHUTTING_DOWN", metadata={"request_id": "r"}),
        make(error_details_pb2.RetryInfo, retry_delay={"nanos": 250_000_000}),
        make(error_details_pb2.BadRequest, field_violations=[{"field": "f", "description": "d"}]),
        error_details_pb2.DebugInfo(detail="unknown to the client"),
    ):
        status.details.add().Pack(detail)
    service = Failing(Code.UNAVAILABLE, ("grpc-status-details-bin", status.SerializeToString()))  # type: ignore[abstract]
    async with failing(service) as target, calling(kind, target, retry=None) as caller:
        with pytest.raises(talkwire.Unavailable) as caught:
            await caller.chat("x")

    error = caught.value
    assert type(error) is talkwire.Unavailable
    assert (error.reason, error.request_id, error.retry_after) == ("SHUTTING_DOWN", "r", 0.25)
    assert error.violations == (talkwire.Violation("f", "d"),)


async def test_a_refused_call_is_tried_again_a_begun_stream_never(kind: str) -> None:
    """GRPC's own retries: 4 attempts by default, none once something came."""
    service = Failing(Code.UNAVAILABLE, ("grpc-retry-pushback-ms", "1"))  # type: ignore[abstract]
    async with failing(service) as target, calling(kind, target) as caller:
        with pytest.raises(talkwire.ConnectError):
            await caller.chat("x")
        assert service.attempts == 4
        async with caller.stream("x") as stream:
            with pytest.raises(talkwire.ConnectError) as caught:
                await stream.wait()

    assert service.attempts == 5
    assert caught.value.partial
    assert (caught.value.partial.text, caught.value.partial.id) == ("one", "i")


async def test_a_cancelled_task_stays_cancelled(slow_echo: RunningServer) -> None:
    """Cancelling the task is asyncio's affair: no talkwire exception, and the server stops."""
    async with AsyncClient(slow_echo.target) as client:

        async def read() -> None:
            async with client.stream("word " * 500) as stream:
                await stream.wait()

        task = asyncio.ensure_future(read())
        while not slow_echo.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(slow_echo.server.admission.empty(), 5)


async def test_a_block_that_was_not_entered_is_not_read(kind: str) -> None:
    """Neither is what was waited for in vain."""
    async with calling(kind, "127.0.0.1:1", connect_timeout=0.1) as caller:
        stream = caller.client.stream("x")
        blocking = isinstance(stream, talkwire.Stream)
        with pytest.raises(talkwire.ConnectError):
            await (asyncio.to_thread(stream.__enter__) if blocking else stream.__aenter__())
        with pytest.raises(RuntimeError, match="is read inside its block"):
            next(stream) if blocking else await anext(stream)
        stream.cancel()


async def test_conversations_stream(slow_echo: RunningServer) -> None:
    """A streamed turn is added at its end; one that is left early is not."""
    async with AsyncClient(slow_echo.target) as client:
        conversation = client.conversation()
        async with conversation.stream("a b") as stream:
            texts = [chunk.text async for chunk in stream]
        async with conversation.stream("c d e f g") as stream:
            await anext(stream)
    with Client(slow_echo.target) as blocking:
        same = blocking.conversation(conversation.messages)

        def turn() -> None:
            with same.stream("c d e f g") as stream:
                next(stream)
            with same.stream("h") as stream:
                stream.wait()

        await asyncio.to_thread(turn)

    assert texts == ["a", " b", ""]
    assert [m.text for m in conversation.messages] == ["a b", "a b"]
    assert [m.text for m in same.messages] == ["a b", "a b", "h", "h"]


async def test_a_channel_of_ones_own_and_the_stub(echo: RunningServer) -> None:
    """`channel=` is used as it is; `stub` is the generated one on the client's channel."""
    async with AsyncClient(channel=grpc.aio.insecure_channel(echo.target)) as client:
        assert (await client.chat("x")).text == "x"
        response = await client.stub.Chat(pb.ChatRequest(query="y"))

    assert response.message.text == "y"


async def test_tls_and_a_token(kind: str, tmp_path: Path) -> None:
    """With the authority's file the connection is trusted and carries the token; without not."""
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    make = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 "
        f"-subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout {key} -out {cert}"
    )
    maker = await asyncio.create_subprocess_exec(*make.split(), stderr=asyncio.subprocess.PIPE)
    assert (await maker.communicate(), maker.returncode)[1] == 0
    engine = EchoEngine(["echo"], "", 0)
    admission = Admission(engine, Settings())
    admission.open()
    server = grpc.aio.server()
    service = ChatService(engine, admission, OpenCalls(0), Journal())
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    files = TLS(ca_file=str(cert))
    async with calling(kind, f"localhost:{port}", tls=files, token="t") as caller:
        assert (await caller.chat("safe")).text == "safe"
    async with calling(kind, f"localhost:{port}", tls=True, connect_timeout=0.5) as caller:
        with pytest.raises(talkwire.ConnectError):
            await caller.chat("x")
    await server.stop(None)


@pytest.mark.parametrize("resume", [False, True])
async def test_closing_the_client_ends_its_calls(
    kind: str, slow_echo: RunningServer, resume: bool
) -> None:
    """A call whose client is closed beneath it raises `Cancelled`, not asyncio's own."""
    async with calling(kind, slow_echo.target, resume=resume) as caller:
        call = asyncio.ensure_future(caller.chat("word " * 500))
        while not slow_echo.engine.unfinished:  # noqa: ASYNC110  # the engine has no event for it
            await asyncio.sleep(0.005)
    with pytest.raises(talkwire.Cancelled):
        await call
    await slow_echo.server.admission.empty()


@pytest.mark.parametrize("wait_for_ready", [True, False])
async def test_a_closed_client_has_no_calls(
    kind: str, echo: RunningServer, wait_for_ready: bool
) -> None:
    """They are cancelled; gRPC alone would crash the process where it had none before."""
    async with calling(kind, echo.target, wait_for_ready=wait_for_ready) as caller:
        assert caller.client.channel
    with pytest.raises(talkwire.Cancelled):
        await caller.chat("x")


@pytest.mark.parametrize("begun", [True, False])
async def test_a_closed_client_of_several_servers_has_none(
    kind: str, echo: RunningServer, begun: bool
) -> None:
    """It does not wait for servers that nobody watches any more; who waits is told."""
    async with calling(kind, [echo.target, "127.0.0.1:1"]) as caller:
        if begun:
            await caller.chat("x")
    for call in ("chat", "models", "abort"):
        with pytest.raises(talkwire.Cancelled):
            await caller.call(call, *["x"] * (call != "models"))
    assert not await caller.call("ready", 5)
    async with calling(kind, ["127.0.0.1:1", "127.0.0.1:2"]) as caller:
        waiting = asyncio.ensure_future(caller.chat("x"))
        await asyncio.sleep(0.2)
    with pytest.raises(talkwire.Cancelled):
        await waiting


async def test_details_that_are_none_leave_the_code(kind: str) -> None:
    """Trailers that are not google.rpc's do not hide the failure."""
    service = Failing(Code.NOT_FOUND, ("grpc-status-details-bin", b"\xff\xff"))  # type: ignore[abstract]
    async with failing(service) as target, calling(kind, target, retry=None) as caller:
        with pytest.raises(talkwire.ModelNotFound):
            await caller.chat("x")
