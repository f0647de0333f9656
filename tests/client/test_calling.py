"""Tools: what the model is told of them, and what `run_tools` makes of its calls."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import date
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import grpc
import pytest
from pydantic import BaseModel, Field

import talkwire
from multiplexing import Multiplexing
from support import calling
from talkwire import Client
from talkwire._build import build
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc


class Unit(StrEnum):
    C = "celsius"
    F = "fahrenheit"


class Place(BaseModel):
    name: str
    day: date


def weather(
    place: Place, unit: Annotated[Unit, Field(description="Of the scale.")] = Unit.C
) -> dict[str, Any]:
    """Tell the weather.

    Anywhere, any day.
    """
    return {"place": place, "kind": type(place).__name__, "unit": unit}


def add(a: int, b: int) -> str:
    """Add."""
    return f"{a} and {b} make {a + b}"


def divide(a: float, b: float) -> float:
    return a / b


async def slow_add(a: int, b: int) -> int:
    """Add slowly."""
    await asyncio.sleep(0.01)
    return a + b


# What the model is told


def told(*tools: Any) -> list[pb.Function]:
    return [tool.function for tool in build("", {"tools": tools}).tools]


def test_a_function_tells_its_name_docstring_and_parameters() -> None:
    """Names, types, defaults and descriptions, in the order of the function's own."""
    (function,) = told(weather)
    parameters = json.loads(function.parameters)

    assert (function.name, function.description) == (
        "weather",
        "Tell the weather.\n\nAnywhere, any day.",
    )
    assert list(parameters["properties"]) == ["place", "unit"]
    assert parameters["required"] == ["place"]
    assert parameters["properties"]["unit"]["description"] == "Of the scale."
    assert parameters["$defs"]["Place"]["properties"]["day"]["format"] == "date"
    assert not function.HasField("strict")


def test_methods_and_messages_and_mappings_are_tools() -> None:
    """A bound method has no self; messages and schemas are taken as they are."""

    class Shop:
        def price(self, item: str) -> float:
            return len(item)

    schema = {"type": "object", "properties": {"z": {}, "a": {}}}
    function = pb.Function(name="f")
    method, *others = told(
        Shop().price,
        function,
        pb.Tool(function=function),
        {"name": "g", "parameters": schema, "strict": True},
        {"name": "h", "parameters": '{"type":"object"}'},
    )

    assert list(json.loads(method.parameters)["properties"]) == ["item"]
    assert others == [
        function,
        function,
        pb.Function(name="g", parameters=json.dumps(schema), strict=True),
        pb.Function(name="h", parameters='{"type":"object"}'),
    ]


def test_functions_that_no_model_could_call_are_all_named() -> None:
    """Nameless ones, positional arguments, types that are not JSON's."""

    def positional(a: int, /) -> None: ...
    def several(*a: int) -> None: ...
    def strange(a: Client) -> None: ...
    def undefined(a: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(ValueError, match="tools") as caught:
        told(lambda a: a, partial(add, 1), positional, several, strange, undefined)

    faults = str(caught.value).split("; ")
    assert faults[:4] == [
        "tools[0]: has no name: define it with def",
        "tools[1]: has no name: define it with def",
        "tools[2]: takes arguments without a name: a model gives them by name alone",
        "tools[3]: takes arguments without a name: a model gives them by name alone",
    ]
    assert "tools[4]: Unable to generate pydantic-core schema for <class 'talkwire" in faults[4]
    assert faults[5] == "tools[5]: name 'Nowhere' is not defined"


# What becomes of calls


async def test_a_call_is_an_answer(client: Any) -> None:
    """A streamed call adds up to the unary one; the deltas carry its pieces."""
    query = 'add({"a": 1, "b": 2})'
    async with client.stream(query, tools=[add]) as stream:
        pieces = [piece async for chunk in stream for piece in chunk.tool_calls]
    (call,) = stream.answer.tool_calls
    (other,) = (await client.chat(query, tools=[add])).tool_calls

    assert (call.name, json.loads(call.arguments)) == ("add", {"a": 1, "b": 2})
    assert (other.name, other.arguments) == (call.name, call.arguments)
    assert "".join(piece.arguments for piece in pieces) == call.arguments
    assert (stream.answer.finish_reason, stream.answer.text) == ("tool_calls", "")


async def test_tool_choice(client: Any) -> None:
    """None speaks, required and a name call, whatever was said."""
    options = {"tools": [add, divide]}
    none = await client.chat('add({"a": 1})', tool_choice="none", **options)
    required = await client.chat("hi", tool_choice="required", **options)
    named = await client.chat('{"a": 1}', tool_choice="divide", **options)

    assert (none.text, none.tool_calls) == ('add({"a": 1})', [])
    assert [(call.name, call.arguments) for call in required.tool_calls] == [("add", "{}")]
    assert [(call.name, call.arguments) for call in named.tool_calls] == [("divide", '{"a": 1}')]


async def test_functions_are_called_until_the_model_speaks(client: Any) -> None:
    """`run_tools` sends the result back; the echo engine says it."""
    answer = await client.call("run_tools", 'add({"a": 1, "b": "2"})', tools=[add, divide])

    assert (answer.text, answer.finish_reason) == ("1 and 2 make 3", "stop")


async def test_the_last_answer_has_the_form_that_is_wished(client: Any) -> None:
    """Functions are called without it: a model that is held to a form cannot call."""
    query = 'weather({"place": {"name": "Rome", "day": "2026-01-02"}})'
    conversation = client.client.conversation(system="", output=dict)
    answer = await run_tools(conversation, query, tools=[weather])

    assert answer.parsed == json.loads(conversation.messages[2].text)
    assert [message.role for message in conversation.messages[2:]] == [
        pb.ROLE_TOOL,
        pb.ROLE_ASSISTANT,
    ]


async def test_a_conversation_holds_all_of_it(client: Any) -> None:
    """Question, call, result and answer, with ids and names; usage is of both turns."""
    conversation = client.client.conversation(system="", tools=[weather])
    query = 'weather({"place": {"name": "Rome", "day": "2026-01-02"}, "unit": "fahrenheit"})'
    answer = await run_tools(conversation, query)
    asked, calls, result, said = conversation.messages

    assert (asked.role, asked.text) == (pb.ROLE_USER, query)
    (call,) = calls.tool_calls
    assert (result.role, result.tool_call_id, result.name) == (pb.ROLE_TOOL, call.id, "weather")
    assert json.loads(result.text) == {
        "place": {"name": "Rome", "day": "2026-01-02"},
        "kind": "Place",
        "unit": "fahrenheit",
    }
    assert said == answer.message
    assert conversation.usage.completion_tokens > answer.usage.completion_tokens


async def run_tools(conversation: Any, query: str, **options: Any) -> talkwire.Answer:
    if asyncio.iscoroutinefunction(conversation.run_tools):
        answer: talkwire.Answer = await conversation.run_tools(query, **options)
        return answer
    return await asyncio.to_thread(conversation.run_tools, query, **options)


def failing(error: str) -> None:
    """Fail in the way that is asked for."""
    raise {"StopIteration": StopIteration, "KeyError": KeyError, "Error": OSError}[error](error)


def strange() -> object:
    return object()


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ('divide({"a": 1, "b": 0})', "error: ZeroDivisionError: float division by zero"),
        (
            'add({"a": "x", "c": 1})',
            "error: ValueError: a: Input should be a valid integer, unable to parse string as an "
            "integer; b: Missing required argument; c: Unexpected keyword argument",
        ),
        ('failing({"error": "StopIteration"})', "error: StopIteration: StopIteration"),
        ('failing({"error": "KeyError"})', "error: KeyError: 'KeyError'"),
        ('failing({"error": "Error"})', "error: OSError: Error"),
        (
            "strange({})",
            "error: PydanticSerializationError: Unable to serialize unknown type: <class 'object'>",
        ),
    ],
)
async def test_what_goes_wrong_is_told_to_the_model(client: Any, query: str, text: str) -> None:
    """A function's exception, and arguments that are not its own, become the call's result."""
    tools = [add, divide, failing, strange]
    answer = await client.call("run_tools", query, tools=tools)

    assert answer.text == text


async def test_a_forced_call_is_forced_once(client: Any) -> None:
    """`tool_choice` holds for the first answer; else there would be no end."""
    conversation = client.client.conversation()
    await run_tools(conversation, '{"a": 1, "b": 2}', tools=[add], tool_choice="required")

    assert [message.text for message in conversation.messages[2:]] == ["1 and 2 make 3"] * 2


async def test_coroutine_functions_are_the_asyncio_clients(client: Any, kind: str) -> None:
    """AsyncClient awaits them, and runs others in a thread; Client refuses them before it asks."""
    query = 'slow_add({"a": 1, "b": 2})'
    if kind.startswith("sync"):
        with pytest.raises(ValueError, match=r"tools\[1\]: is a coroutine function: AsyncClient"):
            await client.call("run_tools", query, tools=[add, slow_add])
        return
    loop = asyncio.get_running_loop()

    def thread() -> bool:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return loop.is_running()

    assert (await client.call("run_tools", query, tools=[slow_add])).text == "3"
    assert (await client.call("run_tools", "thread({})", tools=[thread])).text == "true"
    bad = await client.call("run_tools", 'slow_add({"a": 1})', tools=[slow_add])
    assert bad.text == "error: ValueError: b: Missing required argument"


async def test_tools_that_cannot_be_run_are_named_before_anything_is_asked(client: Any) -> None:
    """`run_tools` takes functions, each with a name of its own, at least one."""
    with pytest.raises(ValueError, match="no function") as caught:
        await client.call("run_tools", "hi", tools=[{"name": "f"}, add, add])

    assert str(caught.value) == (
        "tools[0]: is no function that could be called; tools[2]: another function has the name add"
    )
    with pytest.raises(TypeError, match="needs tools="):
        await client.call("run_tools", "hi")


class Insisting(Multiplexing):
    """Answers every request with the same calls, however often."""

    def __init__(self) -> None:
        self.requests: list[pb.ChatRequest] = []

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        """Call."""
        self.requests.append(request)
        response = pb.ChatResponse(finish_reason=pb.FINISH_REASON_TOOL_CALLS, usage=pb.Usage())
        for name, arguments in [("add", '{"a": 1, "b": 2}'), ("add", '{"a"'), ("subtract", "")]:
            response.message.tool_calls.add(id="c", name=name, arguments=arguments)
        return response


@pytest.fixture
async def insisting() -> AsyncIterator[tuple[Insisting, str]]:
    """A server that calls and calls; its address."""
    server = grpc.aio.server()
    servicer = Insisting()  # type: ignore[abstract]  # one method is enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield servicer, f"127.0.0.1:{port}"
    await server.stop(None)


async def test_after_the_limit_the_last_answer_is_returned(
    kind: str, insisting: tuple[Insisting, str]
) -> None:
    """With its calls, which were not run; nothing is raised."""
    servicer, target = insisting
    async with calling(kind, target) as caller:
        answer = await caller.call("run_tools", "hi", tools=[add], limit=2)
        once = await caller.call("run_tools", "hi", tools=[add], limit=0)

    assert (answer.finish_reason, len(answer.tool_calls)) == ("tool_calls", 3)
    assert answer.tool_calls[1].arguments == '{"a"'
    assert once.finish_reason == "tool_calls"
    assert [len(request.messages) for request in servicer.requests] == [0, 5, 9, 0]


async def test_several_calls_are_answered_in_order(
    kind: str, insisting: tuple[Insisting, str]
) -> None:
    """Unknown functions and broken JSON, too; what is sent back is JSON again."""
    servicer, target = insisting
    async with calling(kind, target) as caller:
        await caller.call("run_tools", "hi", tools=[add], limit=1)
    asked, calls, *results = servicer.requests[1].messages

    assert asked.text == "hi"
    assert [call.arguments for call in calls.tool_calls] == ['{"a": 1, "b": 2}', "", ""]
    assert [result.text for result in results] == [
        "1 and 2 make 3",
        'error: ValueError: the arguments must be a JSON object, not {"a"',
        "error: LookupError: there is no function subtract, but add",
    ]


async def test_a_failure_leaves_what_was_done(client: Any) -> None:
    """The calls that were made stay in the history, and `run_tools` goes on from there."""
    conversation = client.client.conversation()

    def spoil() -> str:
        conversation.options["temperature"] = -1
        return "spoilt"

    with pytest.raises(talkwire.InvalidRequest):
        await run_tools(conversation, "spoil({})", tools=[spoil])
    assert [message.text for message in conversation.messages] == ["spoil({})", "", "spoilt"]
    del conversation.options["temperature"]
    assert (await run_tools(conversation, "", tools=[spoil])).text == "spoilt"
