"""The line that the log has for each chat: what became of it, whoever ended it."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from processes import launched
from support import RunningServer, calling, running
from talkwire import Client, Error
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.echo import EchoEngine

LONG = "word " * 500


@pytest.fixture
def ended(caplog: pytest.LogCaptureFixture) -> Callable[[], list[dict[str, Any]]]:
    """Return the fields of the lines of all chats that ended."""
    caplog.set_level(logging.INFO)

    def fields() -> list[dict[str, Any]]:
        found = [record for record in caplog.records if record.getMessage() == "chat ended"]
        return [vars(record)["fields"] for record in found]

    return fields


@pytest.fixture
async def slow() -> AsyncIterator[RunningServer]:
    """A server whose answers take ten seconds."""
    async with running(EchoEngine(["echo"], "", 0.02), grace=0.1) as server:
        yield server


async def gone(server: RunningServer) -> None:
    """Wait until no call is inside."""
    async with asyncio.timeout(10):
        await server.server.admission.empty()


async def test_an_answer_that_ended(
    kind: str, echo: RunningServer, ended: Callable[[], list[dict[str, Any]]]
) -> None:
    """The line says what the answer's usage and timing say, and which rpc brought it."""
    async with calling(kind, echo.target) as client:
        async with client.stream("a b c", request_id="mine") as stream:
            answer = await stream.wait()
        await client.chat("a b")
    await gone(echo)

    streamed, whole = ended()
    rpc = "ChatMultiplex" if "multiplexed" in kind else "ChatStream"
    assert streamed.pop("total") >= streamed["first_token"] >= streamed["queue"] >= 0
    assert streamed == {
        "id": "mine",
        "rpc": rpc,
        "caller": "127.0.0.1",
        "model": "echo",
        "status": "OK",
        "finish_reason": "STOP",
        "prompt_tokens": answer.usage.prompt_tokens,
        "cached_tokens": 0,
        "completion_tokens": 3,
        "queue": answer.timing.queue,
        "first_token": answer.timing.first_token,
    }
    assert whole["rpc"] == "Chat"
    assert whole["completion_tokens"] == 2


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({}, "INVALID_ARGUMENT", "INVALID_FIELD"),
        ({"query": "a", "model": "none"}, "NOT_FOUND", "MODEL_NOT_FOUND"),
        ({"query": "a", "stop_token_ids": [1]}, "FAILED_PRECONDITION", "UNSUPPORTED_FEATURE"),
    ],
)
async def test_a_refusal(
    kind: str,
    echo: RunningServer,
    ended: Callable[[], list[dict[str, Any]]],
    request_: dict[str, Any],
    status: str,
    reason: str,
) -> None:
    """It has the status, with its reason, and no model: none answered."""
    async with calling(kind, echo.target) as client:
        with pytest.raises(Error):
            async with client.stream(**request_) as stream:
                await stream.wait()

    (line,) = ended()
    assert (line["status"], line["reason"]) == (status, reason)
    assert "model" not in line


async def test_a_caller_that_leaves(
    kind: str, slow: RunningServer, ended: Callable[[], list[dict[str, Any]]]
) -> None:
    """CANCELLED, with the tokens that the engine saw; without a reason: it is the caller's own."""
    async with calling(kind, slow.target) as client:
        async with client.stream(LONG) as stream:
            await anext(aiter(stream))
        await gone(slow)

    (line,) = ended()
    assert line["status"] == "CANCELLED"
    assert line["tokens"] > 0
    assert not {"reason", "finish_reason", "prompt_tokens"} & {*line}


async def test_a_deadline(
    kind: str, slow: RunningServer, ended: Callable[[], list[dict[str, Any]]]
) -> None:
    """DEADLINE_EXCEEDED, whether the caller hung up first or this server looked at the clock."""
    async with calling(kind, slow.target) as client:
        async with client.stream(LONG, timeout=1) as stream:
            with pytest.raises(Error):
                await stream.wait()
        await gone(slow)

    (line,) = ended()
    assert line["status"] == "DEADLINE_EXCEEDED"


async def test_a_server_that_leaves(
    kind: str, slow: RunningServer, ended: Callable[[], list[dict[str, Any]]]
) -> None:
    """What is cut for the server's own sake has the status and reason that its caller reads."""
    async with calling(kind, slow.target) as client, client.stream(LONG) as stream:
        await anext(aiter(stream))
        await slow.server.close()
        with pytest.raises(Error):
            await stream.wait()

    (line,) = ended()
    assert (line["status"], line["reason"]) == ("UNAVAILABLE", "SHUTTING_DOWN")


async def test_a_slow_reader(ended: Callable[[], list[dict[str, Any]]]) -> None:
    """A stream that nobody reads is ABORTED as SLOW_READER."""
    options = (("grpc.http2.bdp_probe", 0),)
    large = " ".join(["x" * 10_000] * 300)
    async with (
        running(EchoEngine(["echo"], "", 0), slow_reader_timeout=0.4) as server,
        grpc.aio.insecure_channel(server.target, options=options) as channel,
    ):
        call = ChatServiceStub(channel).ChatStream(pb.ChatRequest(query=large))
        await anext(aiter(call))
        await gone(server)

    (line,) = ended()
    assert (line["status"], line["reason"]) == ("ABORTED", "SLOW_READER")


def test_the_log_in_json() -> None:
    """Each line of the log is one object; a chat's has its fields as members, and no text."""
    with launched("--log-format=json") as server:
        target = json.loads(server.logs('"serving '))["message"].rpartition(" on ")[2].split()[0]
        with Client(target) as client:
            client.chat("the secret", request_id="mine")
        line = json.loads(server.logs("chat ended"))
        server.process.terminate()
        status, rest = server.ends()

    assert status == 0
    assert line["message"] == "chat ended"
    assert (line["level"], line["logger"], line["id"]) == ("info", "talkwire", "mine")
    assert line["completion_tokens"] == 2
    assert "secret" not in json.dumps(line)
    assert [json.loads(said)["level"] for said in rest.splitlines()] == ["info", "info"]


def test_a_log_without_chats() -> None:
    """With `--no-log-chats` there are no such lines."""
    with launched("--no-log-chats") as server, Client(server.target) as client:
        client.chat("a b")
        server.process.terminate()
        status, rest = server.ends()

    assert status == 0
    assert "stopped" in rest
    assert "chat ended" not in rest
