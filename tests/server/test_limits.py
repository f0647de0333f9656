"""What one request may hold, and what bytes that are no request are told."""

import re
import time
from collections.abc import AsyncIterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from outcomes import INSIDE, Code
from processes import ROOT
from support import RunningServer, make, running, trailers
from talkwire import AsyncClient
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import crowded, violations
from talkwire_server.decoding import read
from talkwire_server.echo import EchoEngine
from talkwire_server.settings import Settings
from talkwire_server.settings.flag import flag_of
from talkwire_server.settings.limits import LimitSettings
from talkwire_server.texts import change_texts

LARGE = [("grpc.max_send_message_length", -1)]
METHODS = [
    f"/{service.full_name}/{method.name}"
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]


@pytest.fixture(scope="module")
async def small() -> AsyncIterator[RunningServer]:
    """An echo server with small limits."""
    limits = {
        "max_request_fields": 16,
        "max_token_ids": 4,
        "max_tools": 2,
        "max_words": 2,
        "max_word_chars": 5,
        "max_schema_chars": 64,
        "max_json_chars": 100,
    }
    async with running(EchoEngine(["echo"], "", 0), **limits) as server:
        yield server


async def refusal(target: str, method: str, data: bytes) -> tuple[Code, dict[str, str]]:
    """Send bytes to a method; return its refusal's code, and what it says of which field."""
    async with grpc.aio.insecure_channel(target, options=LARGE) as channel:
        # Of a stream, too, the refusal is all that comes.
        call: Any = channel.unary_unary(method, same, same)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call(data)
    status = status_pb2.Status.FromString(trailers(failed.value)["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert info.reason == "INVALID_FIELD"
    assert status.details[1].Unpack(bad)
    assert not INSIDE.search(status.message)
    return failed.value.code(), {v.field: v.description for v in bad.field_violations}


def same(data: bytes) -> bytes:
    """Send and receive bytes as they are."""
    return data


SERVED = [m for m in METHODS if "Admin" not in m and "Multiplex" not in m]


@pytest.mark.parametrize("method", SERVED, ids=lambda method: method.rpartition("/")[2])
@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", b"\x0a\x01\xff"])
async def test_bytes_that_are_no_message(echo: RunningServer, method: str, data: bytes) -> None:
    """Whatever the method, they are refused in plain words: INVALID_ARGUMENT, INVALID_FIELD."""
    if data == b"\x0a\x01\xff" and method.endswith(("CountTokens", "ListModels")):
        pytest.skip("whose field 1 is no text")

    assert await refusal(echo.target, method, data) == (
        Code.INVALID_ARGUMENT,
        {"request": "is not a protobuf message"},
    )


async def test_bytes_that_are_no_message_on_the_admin_port() -> None:
    """The AdminService says the same."""
    async with running(EchoEngine(["echo"], "", 0), admin_port=0) as server:
        assert server.server.admin
        for method in (m for m in METHODS if "Admin" in m):
            code, told = await refusal(server.server.admin.address, method, b"\xff")

            assert (code, told) == (
                Code.INVALID_ARGUMENT,
                {"request": "is not a protobuf message"},
            )


IDS, LONG, SIZES = [1, 2, 3, 4, 5], "abcdef", "64 characters, got 65"


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"tools": [{}] * 3}, "tools", "2 tools, got 3"),
        ({"template": {"documents": [{}] * 3}}, "template.documents", "2 documents, got 3"),
        ({"sampling": {"stop": ["a"] * 3}}, "sampling.stop", "2 words, got 3"),
        ({"sampling": {"bad_words": ["a"] * 3}}, "sampling.bad_words", "2 words, got 3"),
        ({"sampling": {"stop": ["a", LONG]}}, "sampling.stop[1]", "5 characters, got 6"),
        ({"sampling": {"bad_words": [LONG]}}, "sampling.bad_words[0]", "5 characters, got 6"),
        ({"sampling": {"stop_token_ids": IDS}}, "sampling.stop_token_ids", "4 ids, got 5"),
        ({"sampling": {"allowed_token_ids": IDS}}, "sampling.allowed_token_ids", "4 ids, got 5"),
        (
            {"sampling": {"logit_bias": dict.fromkeys(IDS, 1.0)}},
            "sampling.logit_bias",
            "4 entries, got 5",
        ),
        ({"output_format": {"regex": "a" * 65}}, "output_format.regex", SIZES),
        ({"output_format": {"grammar": "a" * 65}}, "output_format.grammar", SIZES),
        ({"output_format": {"structural_tag": "a" * 65}}, "output_format.structural_tag", SIZES),
        ({"output_format": {"json_schema": "a" * 65}}, "output_format.json_schema", SIZES),
        (
            {"tools": [{"function": {"parameters": "a" * 65}}]},
            "tools[0].function.parameters",
            SIZES,
        ),
        ({"continuation": {"token_ids": IDS}}, "continuation.token_ids", "4 ids, got 5"),
        (
            {"output_format": {"choice": {"values": ["a" * 30, "b" * 35]}}},
            "output_format.choice.values",
            SIZES,
        ),
        ({"messages": [{"text": "x", "name": LONG}]}, "messages[0].name", "5 characters, got 6"),
    ],
)
async def test_a_list_or_word_that_is_too_long(
    small: RunningServer, fields: dict[str, Any], field: str, text: str
) -> None:
    """It is refused with its field and the limit, by every method that takes a request."""
    request = make(pb.ChatRequest, query="x", **fields)
    count = pb.CountTokensRequest(request=request)
    for method, message in (("Chat", request), ("ChatStream", request), ("CountTokens", count)):
        told = await refusal(
            small.target, f"/talkwire.v1.ChatService/{method}", message.SerializeToString()
        )

        assert told == (Code.INVALID_ARGUMENT, {field: f"must have at most {text}"})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": [{"function": {"parameters": "a" * 51}}] * 2}, "tools"),
        ({"messages": [{"role": 3, "tool_calls": [{"arguments": "a" * 101}]}]}, "messages"),
    ],
)
async def test_too_much_json(small: RunningServer, fields: dict[str, Any], field: str) -> None:
    """What tools and calls have of it counts together."""
    request = make(pb.ChatRequest, query="x", **fields)
    told = await refusal(small.target, "/talkwire.v1.ChatService/Chat", request.SerializeToString())

    text = "bring the JSON of the request to more than 100 characters"
    assert told == (Code.INVALID_ARGUMENT, {field: text})


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": [{}] * 17}, "messages"),
        ({"messages": [{"role": 2, "text": "a"}] * 6}, "messages"),
        ({"messages": [{"parts": [{}] * 16}]}, "messages"),
        ({"tools": [{"function": {"name": "f"}}] * 6}, "tools"),
        ({"template": {"kwargs": {"a": [1] * 16}}}, "template"),
        ({"messages": [{"tool_calls": [{}] * 16}]}, "messages"),
        ({"output_format": {"choice": {"values": ["a"] * 16}}}, "output_format"),
    ],
)
async def test_too_many_fields(small: RunningServer, fields: dict[str, Any], field: str) -> None:
    """They are refused before they are parsed, wherever they are."""
    request = make(pb.ChatRequest, query="x", **fields)
    count = pb.CountTokensRequest(request=request)
    for method, message, named in (("Chat", request, field), ("CountTokens", count, "request")):
        told = await refusal(
            small.target, f"/talkwire.v1.ChatService/{method}", message.SerializeToString()
        )

        text = "brings the request to more than 16 fields"
        assert told == (Code.INVALID_ARGUMENT, {named: text})


def number(value: int) -> bytes:
    made = b""
    while value > 127:
        made, value = made + bytes([value & 127 | 128]), value >> 7
    return made + bytes([value])


def framed(field: int, payload: bytes) -> bytes:
    return number(field << 3 | 2) + number(len(payload)) + payload


SIZE = 16 << 20
HEAVY = {
    "empty messages": b"\x12\x00" * (SIZE // 2),
    "empty parts": framed(2, b"\x1a\x00" * (SIZE // 2)),
    "empty tools": b"\x32\x00" * (SIZE // 2),
    "stop words": framed(5, b"\x3a\x00" * (SIZE // 2)),
    "biases": framed(5, b"\x7a\x00" * (SIZE // 2)),
    "token ids": framed(18, framed(1, b"\x01" * SIZE)),
    "token ids one by one": framed(18, b"\x08\x01" * (SIZE // 2)),
    "a list for the template": framed(
        12, framed(1, framed(1, framed(1, b"a") + framed(2, framed(6, b"\x0a\0" * (SIZE // 2)))))
    ),
    "unknown fields": b"\xf8\x0f\x01" * (SIZE // 3),
    "groups": b"\x0b" * SIZE,
    "a number without an end": b"\xff" * SIZE,
}
LISTS = "empty messages", "empty parts", "empty tools", "stop words", "biases"
CROWDED = {*LISTS, "token ids one by one", "a list for the template", "unknown fields", "groups"}


@pytest.mark.parametrize("name", HEAVY)
def test_sixteen_megabytes_are_not_looked_through(name: str) -> None:
    """However a request is crowded, the look stops at the limit."""
    start = time.perf_counter()
    path = crowded(HEAVY[name], pb.ChatRequest, 10_000)

    print(f"{name}: {path!r} after {1000 * (time.perf_counter() - start):.0f} ms")  # noqa: T201
    assert bool(path) == (name in CROWDED)


ALLOWED: dict[str, dict[str, Any]] = {
    "3,300 messages": {"messages": [{"role": 2, "text": "a"}] * 3300},
    "4,990 parts": {"messages": [{"parts": [{"text": "a"}] * 4990}]},
    "9,990 biases": {"sampling": {"logit_bias": dict.fromkeys(range(9990), 1.0)}},
    "131,072 token ids": {"continuation": {"token_ids": [7] * 131_072}},
    "15 MB of text": {"system": "a" * (15 << 20)},
    "256 KiB of arguments": {
        "messages": [
            {"text": "a"},
            {
                "role": 3,
                "tool_calls": [
                    {"id": "1", "name": "f", "arguments": f'{{"a": [{"[]," * 87_000}[]]}}'}
                ],
            },
        ]
    },
}


@pytest.mark.parametrize("name", ALLOWED)
def test_what_the_largest_requests_cost(name: str) -> None:
    """They are taken; how long all others wait while one is read, checked and walked is printed."""
    data = make(pb.ChatRequest, query="x", **ALLOWED[name]).SerializeToString()
    start = time.perf_counter()
    request = read(pb.ChatRequest, data, LimitSettings())
    assert isinstance(request, pb.ChatRequest)
    taken = time.perf_counter()
    found = violations(request)
    checked = time.perf_counter()
    change_texts(request, lambda _path, text, _by_model: text)
    walked = time.perf_counter()

    assert found == []
    spent = [1000 * seconds for seconds in (taken - start, checked - taken, walked - checked)]
    print(f"{name}: read {spent[0]:.0f}, checked {spent[1]:.0f}, walked {spent[2]:.0f} ms")  # noqa: T201


async def test_a_request_of_sixteen_megabytes(echo: RunningServer) -> None:
    """However it is filled, the server says so at once, grows by little and serves on."""
    before = resident()
    for name, data in HEAVY.items():
        code, _ = await refusal(echo.target, "/talkwire.v1.ChatService/Chat", data[: SIZE - 64])
        assert code is Code.INVALID_ARGUMENT, name
    async with AsyncClient(echo.target) as client:
        last = await client.chat("still there")

    print(f"resident: {before} MB, then {resident()} MB")  # noqa: T201
    assert last.text == "still there"


def resident() -> int:
    """Say how many megabytes this process has in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20


ROW = r"^\| `(--[a-z-]+)` \| ([^|]+) \|"


def test_every_limit_is_in_a_table() -> None:
    """docs/limits.md names each flag with its default."""
    text = (ROOT / "docs/limits.md").read_text(encoding="utf-8")
    request, _, connection = text.partition("## What connections may hold")
    settings = {flag_of(one): one for one in fields(Settings)}
    limits = {name: said(one.default) for name, one in settings.items() if is_limit(one)}

    assert len(limits) > 15
    assert dict(re.findall(ROW, request, re.MULTILINE)) == limits
    rows = dict(re.findall(ROW, connection, re.MULTILINE))
    del rows["--max-concurrent-streams"]  # whose default depends on others
    assert len(rows) == 3
    assert rows == {name: said(settings[name].default) for name in rows}


def said(default: Any) -> str:
    """Spell a default as the tables do."""
    if isinstance(default, int):
        return f"{default:,}"
    return f"{default:g}" if isinstance(default, float) else str(default)


def is_limit(one: Any) -> bool:
    """Tell whether a setting bounds what one request may hold."""
    names = {limit.name for limit in fields(LimitSettings)}
    return one.name in names or one.name.startswith(("max_m", "max_image", "media_"))
