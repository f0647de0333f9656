"""What callers write, and what they are answered, is in no log."""

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import grpc
import pytest
import uvloop

from fields import leaves, set_leaf
from otlp import collecting
from processes import launched
from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.logs import Lines, log_unhandled

SECRET = "s3cr3t"  # noqa: S105  # it opens nothing
CHAT, ABORT, COUNT, MODEL = (
    "/talkwire.v1.ChatService/Chat",
    "/talkwire.v1.ChatService/Abort",
    "/talkwire.v1.ChatService/CountTokens",
    "/talkwire.v1.ModelService/GetModel",
)


def requests() -> list[tuple[str, bytes]]:
    """Say the secret in every field that is a text, in good requests, bad ones and none.

    But for the request's id, which is there to be found in the log.
    """
    made: list[tuple[str, bytes]] = [(CHAT, SECRET.encode()), (f"/{SECRET}/Chat", b"")]
    for path, field in leaves(pb.ChatRequest.DESCRIPTOR):
        request = pb.ChatRequest()
        set_leaf(request, path, field)
        data = request.SerializeToString()
        if path != "request_id" and field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            request = said(path)
            data = request.SerializeToString()
        made.append((CHAT, data))
        made.append((COUNT, pb.CountTokensRequest(request=request).SerializeToString()))
    made.append((CHAT, pb.ChatRequest(query=SECRET).SerializeToString()))
    made.append((ABORT, pb.AbortRequest(id=SECRET).SerializeToString()))
    made.append((MODEL, pb.GetModelRequest(id=SECRET).SerializeToString()))
    return made


def said(path: str) -> pb.ChatRequest:
    """Make a request with the secret in one of its texts."""
    request = make(pb.ChatRequest, query="hi")
    *above, name = path.split(".")
    message: Any = request
    for step in above:
        found = getattr(message, step)
        message = found.add() if hasattr(found, "add") else found
    value = getattr(message, name)
    if isinstance(value, str | bytes):
        setattr(message, name, SECRET if isinstance(value, str) else SECRET.encode())
    else:
        value.append(SECRET)
    return request


TRACES = [
    [("traceparent", SECRET)],
    [("traceparent", f"00-{'1' * 32}-{'1' * 16}-01"), ("tracestate", f"{SECRET} {SECRET}")],
]


async def send(
    target: str, everything: list[tuple[str, bytes]], trace: list[tuple[str, str]]
) -> int:
    """Send requests with the secret in their metadata, too; count those that are refused."""
    refused = 0
    metadata: Any = (
        ("x-request-id", f"{SECRET} {SECRET}"),
        ("authorization", f"Bearer {SECRET}"),
        *trace,
    )
    async with grpc.aio.insecure_channel(target) as channel:
        for method, data in everything:
            call: Any = channel.unary_unary(method, bytes, bytes)
            try:
                await call(data, metadata=metadata)
            except grpc.aio.AioRpcError:
                refused += 1
    return refused


@pytest.mark.parametrize(("level", "trace"), [("info", TRACES[0]), ("debug", TRACES[1])])
async def test_no_log_line_has_what_a_caller_wrote(
    level: str, trace: list[tuple[str, str]]
) -> None:
    """At no level, whatever is asked, wherever it is said, or refused; nor any span."""
    everything = requests()
    with (
        collecting() as collector,
        launched(f"--log-level={level}", **collector.environment) as server,
    ):
        refused = await send(server.target, everything, trace)
        server.signal(signal.SIGTERM)
        status, log = await asyncio.to_thread(server.ends)

    assert status == 0
    assert 100 < refused < len(everything)
    assert "stopped" in log
    assert SECRET not in log
    assert SECRET not in str(collector.spans(50))


def test_an_exception_is_logged_without_its_text() -> None:
    """Its kind, its stack and those of what led to it are there."""
    try:
        try:
            int(SECRET)
        except ValueError as error:
            raise RuntimeError(SECRET) from error
    except RuntimeError:
        told = Lines(texts=False).formatException(sys.exc_info())

    assert SECRET not in told
    assert told.count("test_an_exception_is_logged_without_its_text") == 2
    assert told.index("builtins.ValueError") < told.index("builtins.RuntimeError")


async def fail() -> NoReturn:
    raise ValueError(SECRET)


async def leave_faults() -> None:
    """Fail in a task that nobody awaits, and in a callback."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log_unhandled)
    task = asyncio.create_task(fail())
    loop.call_soon(int, SECRET)
    await asyncio.wait([task])
    del task
    gc.collect()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
async def test_what_nobody_caught_is_logged_without_its_text(
    run: Callable[[Coroutine[Any, Any, None]], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Nor with the arguments of a callback."""
    await asyncio.to_thread(run, leave_faults())
    for record in caplog.records:
        record.exc_text = None  # pytest's own formatter keeps it there
    told = "".join(Lines(texts=False).format(record) for record in caplog.records)

    assert told.count("builtins.ValueError") == 2
    assert "Task exception was never retrieved" in told
    assert SECRET not in told
