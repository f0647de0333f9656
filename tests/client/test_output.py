"""`output`: how a form of text is asked for, and what `parsed` makes of the text."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ValidationError
from typing_extensions import TypedDict

from talkwire import Answer, Choice, Grammar, IncompleteOutput, Regex, StructuralTag
from talkwire._build import build
from talkwire._output import reader
from talkwire_proto.v1 import chat_pb2 as pb


class City(BaseModel):
    """A city, its fields not in the order of the alphabet."""

    name: str
    founded: date
    country: Literal["Italy", "France"]


@dataclass
class Point:
    y: float
    x: float


class Row(TypedDict):
    z: int
    a: list[str]


ROME = '{"name": "Rome", "founded": "0753-04-21", "country": "Italy"}'


@pytest.mark.parametrize(
    ("output", "text", "value"),
    [
        (City, ROME, City.model_validate_json(ROME)),
        (Point, '{"y": 1, "x": 2.5}', Point(1.0, 2.5)),
        (Row, '{"z": 1, "a": ["b"]}', {"z": 1, "a": ["b"]}),
        (list[date], '["2026-01-02"]', [date(2026, 1, 2)]),
        (int | None, "null", None),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict, '{"a": [1.5, true]}', {"a": [1.5, True]}),
        ({"type": "array"}, "[1]", [1]),
        ('{"type": "object"}', "{}", {}),
        (Choice("yes", "no"), "yes", "yes"),
        (None, "[1]", "[1]"),
    ],
)
async def test_parsed_is_what_was_asked_for(
    client: Any, output: Any, text: str, value: object
) -> None:
    """An instance of a type; the plain value of a schema; else the text. Streams, too."""
    answer = await client.chat(text, output=output)
    async with client.stream(text, output=output) as stream:
        streamed = await stream.wait()

    assert answer.parsed == streamed.parsed == value
    assert type(answer.parsed) is type(streamed.parsed) is type(value)


def test_the_schema_of_a_type_keeps_the_order_of_its_fields() -> None:
    """The order of the schema is the order in which the model writes."""
    for output, names in ((City, ["name", "founded", "country"]), (Point, ["y", "x"])):
        schema = json.loads(build("", {"output": output}).output_format.json_schema)
        assert list(schema["properties"]) == names


@pytest.mark.parametrize("output", [Regex("a+"), Grammar("g"), StructuralTag("{}")])
def test_other_forms_are_read_as_text(output: Any) -> None:
    """What is no JSON as a whole is the caller's to take apart."""
    answer = Answer(
        pb.ChatResponse(finish_reason=pb.FINISH_REASON_STOP, message=pb.Message(text="1")),
        reader(output, build("", {"output": output})).whole,
    )

    assert answer.parsed == "1"


async def test_an_answer_that_was_cut_has_no_value(client: Any) -> None:
    """Even where the text would do: 12 may have been on its way to 123."""
    answer = await client.chat("12 ", output={"type": "integer"}, max_tokens=1)

    assert answer.text == "12"
    with pytest.raises(IncompleteOutput, match="it ended with 'length'"):
        _ = answer.parsed
    assert issubclass(IncompleteOutput, ValueError)


async def test_a_text_that_is_no_such_value_is_an_error(client: Any) -> None:
    """Pydantic says what is wrong with a type's, json with a schema's."""
    answer = await client.chat('{"name": 5}', output=City)
    with pytest.raises(ValidationError, match="3 validation errors for City"):
        _ = answer.parsed
    answer.message.text = "{"
    with pytest.raises(ValueError, match="Expecting property name"):
        _ = Answer(answer.proto, json.loads).parsed


async def test_parsed_so_far_grows_with_the_text(client: Any) -> None:
    """Plain values of the JSON until now, strings as far as they came."""
    async with client.stream('{"a": "b c", "d": [1, true]}', output=dict) as stream:
        assert stream.parsed_so_far is None
        seen = [stream.parsed_so_far async for _ in stream]

    assert seen[:3] == [{}, {"a": "b"}, {"a": "b c"}]
    assert seen[3:5] == [{"a": "b c"}, {"a": "b c", "d": [1]}]
    assert seen[5:] == [{"a": "b c", "d": [1, True]}] * 2


async def test_without_json_the_text_is_what_was_read_so_far(client: Any) -> None:
    """Of a choice, and of an answer without any form."""
    for options in ({"output": Choice("a b")}, {}):
        async with client.stream("a b", **options) as stream:
            await anext(aiter(stream))
            assert stream.parsed_so_far == "a"


async def test_a_request_of_ones_own_is_read_as_it_says(client: Any) -> None:
    """By its output_format, or as the type that `output` names."""
    request = client.client.request("[1]", output=list[float])
    plain = await client.call("send", request)
    typed = await client.call("send", request, output=tuple[float, ...])

    assert plain.parsed == [1]
    assert typed.parsed == (1.0,)


async def test_each_alternative_is_parsed(client: Any) -> None:
    """What holds for the first answer holds for the others."""
    answer = await client.chat(ROME, output=City, n=3)

    assert [other.parsed for other in answer.alternatives] == [answer.parsed] * 2


def test_types_that_pydantic_does_not_know_are_faults() -> None:
    """Named with pydantic's own reason, on one line."""
    with pytest.raises(ValueError, match=r"^output: Unable to generate pydantic-core schema for"):
        build("", {"output": 5})
    with pytest.raises(ValueError, match=r"^output: Cannot generate a JsonSchema"):
        build("", {"output": Callable})


WITHOUT = """
import sys
sys.modules["pydantic"] = sys.modules["pydantic_core"] = None
from talkwire import Client
client = Client()
print(client.request("q", output={"type": "object"}, tools=[{"name": "f"}]).output_format)
for options in ({"tools": [print]}, {"output": int}):
    try:
        client.request("q", **options)
    except ImportError as error:
        print(error)
"""


def test_without_pydantic_schemas_do_and_the_rest_names_the_extra() -> None:
    """The client needs grpcio and protobuf only."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True
    )

    assert "json_schema" in done.stdout
    error = "functions as tools, types as output and parsed_so_far need talkwire[pydantic]"
    assert done.stdout.splitlines()[-2:] == [error] * 2
