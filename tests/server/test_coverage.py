"""Nothing is ignored: each field of a request is honoured, or refused by name."""

import ast
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import grpc
import pytest

from fields import clear_leaf, is_supported, leaves, set_leaf, set_leaves, supported
from processes import ROOT
from support import make, running
from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.checks import Support, beyond
from talkwire_server.echo import EchoEngine
from talkwire_server.echo.support import SUPPORTED

LEAVES = dict(leaves(pb.ChatRequest.DESCRIPTOR))
ENGINES = ["echo", "vllm"]
MEDIA = ["image", "audio", "video"]


def table(engine: str) -> Support:
    if engine == "echo":
        return SUPPORTED
    pytest.importorskip("vllm", reason="needs talkwire[cpu] or talkwire[gpu]")
    from talkwire_server.vllm_engine import request

    return request.SUPPORTED


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_not_supported_is_refused_by_name(engine: str) -> None:
    """Each field of the contract is in the engine's table, or named when it is set."""
    support = table(engine)
    for path, field in LEAVES.items():
        request = pb.ChatRequest()
        set_leaf(request, path, field)
        named = [name.replace("[0]", "") for name in beyond(request, support)]

        assert set_leaves(request) == {path}
        if is_supported(path, support):
            assert named == []
        else:
            assert [name for name in named if f"{path}.".startswith(f"{name}.")], path


@pytest.mark.parametrize("engine", ENGINES)
def test_a_table_of_support_has_nothing_else(engine: str) -> None:
    """What an engine says that it supports is in the contract."""
    assert set(supported(table(engine))) <= LEAVES.keys()


# Fields of a newer contract

NEWER = b"\xb8\x3e\x01"  # field 999
CHAT = pb.ChatRequest(query="x").SerializeToString() + NEWER


def within(number: int, data: bytes) -> bytes:
    """Make a message a field of another."""
    return bytes([number << 3 | 2, len(data)]) + data


# The request of each method, at each depth but that of a ChatRequest, which are above.
NEWER_REQUESTS = {
    "ChatService/Chat": [CHAT],
    "ChatService/ChatStream": [CHAT],
    "ChatService/ChatMultiplex": [
        NEWER,
        *(within(2, data) for data in (NEWER, within(1, CHAT))),
        within(3, NEWER),
    ],
    "ChatService/CountTokens": [NEWER, within(1, CHAT)],
    "ChatService/Abort": [NEWER],
    "ModelService/ListModels": [NEWER],
    "ModelService/GetModel": [NEWER],
    "AdminService/LoadAdapter": [NEWER],
    "AdminService/UnloadAdapter": [NEWER],
}


def test_every_method_has_its_row() -> None:
    """The table is about all methods of the contract."""
    services = pb.DESCRIPTOR.services_by_name.values()

    assert NEWER_REQUESTS.keys() == {f"{s.name}/{m.name}" for s in services for m in s.methods}


@pytest.mark.parametrize("method", NEWER_REQUESTS)
async def test_a_field_of_a_newer_contract(method: str) -> None:
    """Whatever the method, and wherever it is, it is refused by its number."""
    async with running(EchoEngine(["echo"], "", 0), admin_port=0) as server:
        assert server.server.admin
        target = server.server.admin.address if "Admin" in method else server.target
        async with grpc.aio.insecure_channel(target) as channel:
            call: Any = channel.stream_stream(f"/talkwire.v1.{method}", bytes, bytes)
            for data in NEWER_REQUESTS[method]:
                assert re.search(
                    r"not supported by this server: .*field 999", await told(call, data)
                )


async def told(call: Any, data: bytes) -> str:
    """Return what a method says of a request: by its status, or that of a multiplexed call."""
    try:
        answers = [pb.ChatMultiplexResponse.FromString(data) async for data in call(iter([data]))]
    except grpc.aio.AioRpcError as error:
        return str(error.details())
    return answers[0].events[0].status.message


# What the echo engine does with each field: what it then answers to "a b c", or, where it refuses
# the field, under which name.
CALL = {"id": "1", "name": "f", "arguments": '{"a": 1}'}
TURN = {"role": pb.ROLE_ASSISTANT, "tool_calls": [CALL]}
SAME: dict[str, Any] = {"message.text": "a b c", "finish_reason": pb.FINISH_REASON_STOP}
JSON: dict[str, Any] = {"message.text": '{"a": 1}'}
CALLED: dict[str, Any] = {
    "finish_reason": pb.FINISH_REASON_TOOL_CALLS,
    "message.tool_calls[0].name": "f",
    "message.tool_calls[0].arguments": '{"a": 1}',
}
THINK = {"effort": pb.Reasoning.EFFORT_LOW}

Case: TypeAlias = "tuple[dict[str, Any], dict[str, Any] | str]"


def parts(*items: dict[str, Any]) -> dict[str, Any]:
    return {"query": "", "messages": [{"parts": items}]}


def tool(query: str = 'f({"a": 1})', /, **fields: Any) -> dict[str, Any]:
    return {"query": query, "tools": [{"function": {"name": "f", **fields}}]}


def media(kind: str) -> dict[str, Case]:
    """Tell of the fields of an image, a sound or a film."""

    def one(**fields: Any) -> dict[str, Any]:
        return parts({kind: fields})

    path = f"messages.parts.{kind}"
    refused = f"messages[0].parts[0].{kind}"
    said: dict[str, Any] = {"message.text": f"[{kind} 2 bytes]", "usage.media_tokens": 1}
    return {
        f"{path}.data": (one(data=b"ab"), said),
        f"{path}.mime_type": (one(data=b"ab", mime_type="a/b"), {"message.text": "[a/b 2 bytes]"}),
        f"{path}.uri": (one(uri="data:,x"), f"{refused}.uri"),
        f"{path}.cache_id": (one(cache_id="x"), f"{refused}.cache_id"),
        f"{path}.cache_key": (one(data=b"ab", cache_key="x"), f"{refused}.cache_key"),
    }


def sampling(**fields: Any) -> dict[str, Case]:
    """Tell of fields of `Sampling` that change nothing."""
    return {f"sampling.{name}": ({"sampling": {name: fields[name]}}, SAME) for name in fields}


FIELDS: dict[str, Case] = {
    "query": ({"query": "hi"}, {"message.text": "hi"}),
    "messages.role": (
        {"query": "", "messages": [{"text": "x"}, {"role": pb.ROLE_ASSISTANT, "text": "y"}]},
        {"message.text": "x", "usage.prompt_tokens": 2},
    ),
    "messages.text": ({"query": "", "messages": [{"text": "x y"}]}, {"message.text": "x y"}),
    "messages.parts.text": (parts({"text": "a b"}, {"text": "c"}), {"message.text": "a b\nc"}),
    **{path: case for kind in MEDIA for path, case in media(kind).items()},
    "messages.reasoning": ({"messages": [{**TURN, "reasoning": "hm"}]}, SAME),
    "messages.tool_calls.id": ({"messages": [TURN]}, SAME),
    "messages.tool_calls.name": ({"messages": [TURN]}, {"usage.prompt_tokens": 5}),
    "messages.tool_calls.arguments": ({"messages": [TURN]}, {"usage.prompt_tokens": 5}),
    "messages.tool_call_id": (
        {"query": "", "messages": [TURN, {"role": pb.ROLE_TOOL, "tool_call_id": "1", "text": "r"}]},
        {"message.text": "r"},
    ),
    "messages.name": ({"messages": [{"text": "x", "name": "Ann"}]}, SAME),
    "system": ({"system": "s t"}, {**SAME, "usage.prompt_tokens": 5}),
    "model": ({"model": "echo"}, {**SAME, "model": "echo"}),
    **sampling(
        temperature=1,
        top_p=0.5,
        top_k=1,
        min_p=0.5,
        min_tokens=1,
        ignore_eos=True,
        seed=1,
        presence_penalty=1,
        frequency_penalty=1,
        repetition_penalty=1.5,
        logit_bias={1: 1},
        skip_special_tokens=False,
    ),
    "sampling.max_tokens": (
        {"sampling": {"max_tokens": 2}},
        {"message.text": "a b", "finish_reason": pb.FINISH_REASON_LENGTH},
    ),
    "sampling.stop": (
        {"sampling": {"stop": ["c", "b"]}},
        {"message.text": "a ", "stop_match.text": "b", "usage.completion_tokens": 2},
    ),
    "sampling.include_stop": (
        {"sampling": {"stop": ["b"], "include_stop": True}},
        {"message.text": "a b", "stop_match.text": "b"},
    ),
    "sampling.stop_token_ids": ({"sampling": {"stop_token_ids": [1]}}, "sampling.stop_token_ids"),
    "sampling.bad_words": ({"sampling": {"bad_words": ["b"]}}, "sampling.bad_words"),
    "sampling.allowed_token_ids": (
        {"sampling": {"allowed_token_ids": [1]}},
        "sampling.allowed_token_ids",
    ),
    "tools.function.name": (tool(), CALLED),
    "tools.function.description": (tool(description="d"), CALLED),
    "tools.function.parameters": (tool(parameters='{"type": "object"}'), CALLED),
    "tools.function.strict": (tool(strict=True), CALLED),
    "tool_choice.mode": (
        {**tool("a b c"), "tool_choice": {"mode": pb.ToolChoice.MODE_REQUIRED}},
        {**CALLED, "message.tool_calls[0].arguments": "{}"},
    ),
    "tool_choice.function": ({**tool('{"a": 1}'), "tool_choice": {"function": "f"}}, CALLED),
    "parallel_tool_calls": ({**tool(), "parallel_tool_calls": False}, CALLED),
    "output_format.json_schema": (
        {"query": '{"a": 1}', "output_format": {"json_schema": "{}"}},
        JSON,
    ),
    "output_format.json_object": (
        {"query": '{"a": 1}', "output_format": {"json_object": True}},
        JSON,
    ),
    "output_format.choice.values": (
        {"output_format": {"choice": {"values": ["x y", "z"]}}},
        {"message.text": "x y", "usage.completion_tokens": 2},
    ),
    "output_format.regex": ({"output_format": {"regex": "a"}}, "output_format.regex"),
    "output_format.grammar": ({"output_format": {"grammar": "a"}}, "output_format.grammar"),
    "output_format.structural_tag": (
        {"output_format": {"structural_tag": "{}"}},
        "output_format.structural_tag",
    ),
    "reasoning.effort": (
        {"reasoning": THINK},
        {**SAME, "message.reasoning": "a b c", "usage.completion_tokens": 6},
    ),
    "reasoning.max_tokens": (
        {"reasoning": {**THINK, "max_tokens": 1}},
        {**SAME, "message.reasoning": "a", "usage.reasoning_tokens": 1},
    ),
    "reasoning.exclude": (
        {"reasoning": {**THINK, "exclude": True}},
        {**SAME, "message.reasoning": "", "usage.reasoning_tokens": 3},
    ),
    "include.logprobs": (
        {"include": {"logprobs": 2}},
        {"logprobs[2].token": " c", "logprobs[2].logprob": 0, "logprobs[2].rank": 1},
    ),
    "include.prompt_logprobs": (
        {"include": {"prompt_logprobs": 0}},
        {"prompt_logprobs[0].token": "user: a", "prompt_logprobs[2].rank": 1},
    ),
    "include.token_ids": ({"include": {"token_ids": True}}, {"token_ids": [0, 1, 2]}),
    "include.prompt_token_ids": (
        {"system": "s", "include": {"prompt_token_ids": True}},
        {"prompt_token_ids": [0, 1, 2, 3]},
    ),
    "template.kwargs": ({"template": {"kwargs": {"a": 1}}}, SAME),
    "template.continue_final_message": (
        {
            "query": "",
            "messages": [{"text": "a b c"}, {"role": pb.ROLE_ASSISTANT, "text": "a"}],
            "template": {"continue_final_message": True},
        },
        SAME,
    ),
    "template.truncate_prompt_tokens": (
        {"template": {"truncate_prompt_tokens": 1}},
        "template.truncate_prompt_tokens",
    ),
    "template.documents": ({"template": {"documents": [{"a": "b"}]}}, "template.documents"),
    "n": (
        {"n": 2},
        {**SAME, "alternatives[0].message.text": "a b c", "usage.completion_tokens": 6},
    ),
    "priority": ({"priority": 1}, "priority"),
    "cache_salt": ({"cache_salt": "s"}, SAME),
    "request_id": ({"request_id": "r"}, {**SAME, "id": "r"}),
    "time_limit": ({"time_limit": {"seconds": 60}}, SAME),
    "continuation.token_ids": (
        {"continuation": {"token_ids": [0]}},
        {"message.text": " b c", "usage.completion_tokens": 3},
    ),
    "continuation.text": (
        {"continuation": {"text": "a "}},
        {"message.text": "b c", "usage.completion_tokens": 3},
    ),
    "chunking.max_delay": ({"chunking": {"max_delay": {"seconds": 1}}}, SAME),
    "chunking.min_chars": ({"chunking": {"min_chars": 1}}, SAME),
    "engine_options": ({"engine_options": {"a": 1}}, "engine_options"),
}


def test_every_field_has_its_row() -> None:
    """The table below is about all fields of the contract, and each row sets its own."""
    assert FIELDS.keys() == LEAVES.keys()
    for path, (fields, _) in FIELDS.items():
        assert path in set_leaves(asked(fields))


def asked(fields: dict[str, Any]) -> pb.ChatRequest:
    return make(pb.ChatRequest, **{"query": "a b c", "system": "", **fields})


@pytest.mark.parametrize("path", FIELDS)
async def test_a_field_on_the_echo_engine(channel: grpc.aio.Channel, path: str) -> None:
    """It has its effect on the answer, streamed or not; or the call is refused with its name."""
    fields, expected = FIELDS[path]
    stub = ChatServiceStub(channel)
    if isinstance(expected, str):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Chat(asked(fields))

        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert caught.value.details() == f"not supported by this server: {expected}"
        return
    answer = await stub.Chat(asked(fields))
    streamed = Accumulator()
    async for delta in stub.ChatStream(asked(fields)):
        streamed.add(delta)

    assert {name: look(answer, name) for name in expected} == expected
    assert alike(answer) == alike(streamed.response)


# What vLLM is not told of in its request, but otherwise, or not at all.
ELSEWHERE = {
    *(f"messages.parts.{k}.{v}" for k in MEDIA for v in ("uri", "cache_id", "cache_key")),
    *("include.token_ids", "include.prompt_token_ids", "reasoning.exclude"),  # shown or not
    *("continuation.token_ids", "continuation.text"),
    *("chunking.max_delay", "chunking.min_chars"),
    *("model", "priority", "request_id", "time_limit"),
}


def test_what_vllm_is_told() -> None:
    """Each supported field changes vLLM's request, or the server reads it where it is meant."""
    support = table("vllm")
    from talkwire_server.vllm_engine.request import vllm_request

    untold = set()
    for path, (fields, _) in FIELDS.items():
        request, without = asked(fields), asked(fields)
        clear_leaf(without, path)
        if is_supported(path, support) and vllm_request(request, "") == vllm_request(without, ""):
            untold.add(path)

    assert untold == ELSEWHERE
    assert {path.rpartition(".")[2] for path in untold} <= attributes()


def attributes() -> set[str]:
    """Name all attributes that the server reads, checks and the echo engine apart."""
    files = (ROOT / "server/talkwire_server").rglob("*.py")
    trees = (
        ast.parse(file.read_text(encoding="utf-8"))
        for file in files
        if not {"echo", "checks"} & set(file.parts)
    )
    return {n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute)}


def look(value: Any, path: str) -> Any:
    """Look up `a[0].b`."""
    for step in re.findall(r"\w+", path):
        value = value[int(step)] if step.isdigit() else getattr(value, step)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def alike(answer: pb.ChatResponse) -> str:
    """Leave out what differs between two answers to one request."""
    answer.ClearField("timing")
    return str(answer).replace(answer.id, "ID")
