"""grpcurl and `buf curl`, as people use them by hand, against a server process of its own."""

import json
from base64 import b64decode
from collections.abc import Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
from google.rpc import error_details_pb2

from processes import BUF, GRPCURL, run, serving

needs_buf = pytest.mark.skipif(not BUF.exists(), reason="needs npm's buf: scripts/setup.sh --dev")

BAD = '{"sampling": {"temperature": -1, "top_p": 3}}'
"""A request with three faults."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving("--echo-delay=0.05") as address:
        yield address


def grpcurl(*arguments: str) -> str:
    """Return what grpcurl prints when it succeeds."""
    done = run(GRPCURL, "-plaintext", *arguments)

    assert done.returncode == 0, done.stderr
    return done.stdout


def grpcurl_error(*arguments: str) -> dict[str, Any]:
    """Return the status that grpcurl prints, as JSON, when a call fails."""
    done = run(GRPCURL, "-plaintext", "-format-error", *arguments)

    assert done.returncode != 0, done.stdout
    status: dict[str, Any] = json.loads(done.stderr)
    return status


def buf_curl(*arguments: str) -> CompletedProcess[str]:
    """Run `buf curl` on gRPC without TLS."""
    return run(BUF, "curl", "--protocol=grpc", "--http2-prior-knowledge", *arguments)


def messages(text: str) -> list[dict[str, Any]]:
    """Read JSON objects that follow one another."""
    found, decoder, text = [], json.JSONDecoder(), text.strip()
    while text:
        message, end = decoder.raw_decode(text)
        found.append(message)
        text = text[end:].lstrip()
    return found


def test_grpcurl_lists_the_services(address: str) -> None:
    """Reflection names our services, health and itself, and no other."""
    listed = grpcurl(address, "list").split()

    assert listed == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "talkwire.v1.ChatService",
        "talkwire.v1.ModelService",
    ]


def test_grpcurl_describes_a_service(address: str) -> None:
    """A service is described with the shapes of its methods."""
    described = grpcurl(address, "describe", "talkwire.v1.ChatService")

    assert (
        "rpc ChatStream ( .talkwire.v1.ChatRequest )"
        " returns ( stream .talkwire.v1.ChatStreamResponse );"
    ) in described


def test_grpcurl_describes_a_method(address: str) -> None:
    """A method is described by its full name."""
    described = grpcurl(address, "describe", "talkwire.v1.ChatService.ChatStream")

    assert (
        "rpc ChatStream ( .talkwire.v1.ChatRequest )"
        " returns ( stream .talkwire.v1.ChatStreamResponse );"
    ) in described


def test_grpcurl_describes_a_message(address: str) -> None:
    """A message is described with its fields, presence included."""
    described = grpcurl(address, "describe", "talkwire.v1.Sampling")

    assert "optional double temperature = 1;" in described
    assert "map<int32, float> logit_bias = 15;" in described


def test_grpcurl_chats(address: str) -> None:
    """A unary call answers in one message."""
    (answer,) = messages(
        grpcurl("-d", '{"query": "Say hello"}', address, "talkwire.v1.ChatService/Chat")
    )

    assert answer["message"] == {"role": "ROLE_ASSISTANT", "text": "Say hello"}
    assert answer["finish_reason"] == "FINISH_REASON_STOP"


def test_grpcurl_streams(address: str) -> None:
    """A stream has a message a word, the id in the first and usage only in the last."""
    method = "talkwire.v1.ChatService/ChatStream"
    chunks = messages(grpcurl("-d", '{"query": "hi", "request_id": "mine"}', address, method))

    assert chunks[0] == {"text": "hi", "id": "mine", "model": "echo"}
    assert ["usage" in chunk for chunk in chunks] == [False, True]


def test_grpcurl_shows_an_error_with_its_details(address: str) -> None:
    """A refused request names its reason and every bad field, readable without our schema."""
    method = "talkwire.v1.ChatService/Chat"
    status = grpcurl_error("-rpc-header", "x-request-id: mine", "-d", BAD, address, method)

    info, bad = status["details"]
    assert status["code"] == 3
    assert info == {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": "INVALID_FIELD",
        "domain": "talkwire",
        "metadata": {"request_id": "mine"},
    }
    assert bad["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert [(violation["field"], violation["reason"]) for violation in bad["field_violations"]] == [
        ("query", "REQUIRED"),
        ("sampling.temperature", "OUT_OF_RANGE"),
        ("sampling.top_p", "OUT_OF_RANGE"),
    ]


def test_grpcurl_gives_up_at_its_deadline(address: str) -> None:
    """`-max-time` ends a stream that would take longer with DEADLINE_EXCEEDED."""
    request = json.dumps({"query": "word " * 2000})
    method = "talkwire.v1.ChatService/ChatStream"
    status = grpcurl_error("-max-time", "1", "-d", request, address, method)

    assert status["code"] == 4


def test_grpcurl_multiplexes(address: str) -> None:
    """Several calls over one stream: each has its answer and then its status."""
    asked = "".join(
        json.dumps({"call": n, "start": {"request": {"query": f"hello {n}"}}}) for n in (1, 2)
    )
    answered = messages(grpcurl("-d", asked, address, "talkwire.v1.ChatService/ChatMultiplex"))
    events = [event for message in answered for event in message["events"]]

    for n in (1, 2):
        first, *deltas, last = [event for event in events if event["call"] == n]
        assert first["admitted"] == deltas[0]["response"]["id"]
        assert "".join(d["response"].get("text", "") for d in deltas) == f"hello {n}"
        assert last["status"] == {}


def test_reflection_can_be_turned_off() -> None:
    """With `--no-reflection` a server does not tell its schema."""
    with serving("--no-reflection") as address:
        status = run(GRPCURL, "-plaintext", address, "list")

    assert status.returncode == 1
    assert "server does not support the reflection API" in status.stderr


def test_channelz_counts_calls_where_it_is_asked_for(address: str) -> None:
    """`--channelz` serves live statistics; without it there are none."""
    method = "grpc.channelz.v1.Channelz/GetServers"
    with serving("--channelz") as watched:
        grpcurl("-d", '{"query": "hi"}', watched, "talkwire.v1.ChatService/Chat")
        (statistics,) = messages(grpcurl(watched, method))
    status = grpcurl_error(address, method)

    assert int(statistics["server"][0]["data"]["calls_succeeded"]) >= 1
    assert status["code"] == 12


@needs_buf
def test_buf_lists_the_methods(address: str) -> None:
    """`buf curl` finds every method of the contract by reflection."""
    listed = buf_curl("--list-methods", f"http://{address}").stdout.split()

    assert [method for method in listed if method.startswith("talkwire.")] == [
        "talkwire.v1.ChatService/Abort",
        "talkwire.v1.ChatService/Chat",
        "talkwire.v1.ChatService/ChatMultiplex",
        "talkwire.v1.ChatService/ChatStream",
        "talkwire.v1.ChatService/CountTokens",
        "talkwire.v1.ModelService/GetModel",
        "talkwire.v1.ModelService/ListModels",
    ]


@needs_buf
def test_buf_chats(address: str) -> None:
    """`buf curl` calls the unary method."""
    url = f"http://{address}/talkwire.v1.ChatService/Chat"
    (answer,) = messages(buf_curl("-d", '{"query": "Say hello"}', url).stdout)

    assert answer["message"] == {"role": "ROLE_ASSISTANT", "text": "Say hello"}


@needs_buf
def test_buf_streams(address: str) -> None:
    """`buf curl` reads a stream to its end."""
    url = f"http://{address}/talkwire.v1.ChatService/ChatStream"
    chunks = messages(buf_curl("-d", '{"query": "one two"}', url).stdout)

    assert [chunk.get("text", "") for chunk in chunks] == ["one", " two", ""]
    assert {"promptTokens", "completionTokens"} == chunks[-1]["usage"].keys()


@needs_buf
def test_buf_shows_an_error_with_its_details(address: str) -> None:
    """A refused request reaches another stack with the details that we packed."""
    status = json.loads(
        buf_curl("-d", BAD, f"http://{address}/talkwire.v1.ChatService/Chat").stderr
    )
    info, bad = (b64decode(detail["value"] + "==") for detail in status["details"])

    assert status["code"] == "invalid_argument"
    assert error_details_pb2.ErrorInfo.FromString(info).reason == "INVALID_FIELD"
    assert [
        violation.field
        for violation in error_details_pb2.BadRequest.FromString(bad).field_violations
    ] == ["query", "sampling.temperature", "sampling.top_p"]
