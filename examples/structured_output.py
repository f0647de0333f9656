"""Answers as values of a type of yours; while they are generated, too.

Run `make serve` in another terminal, then `.venv/bin/python examples/structured_output.py`.
"""

from dataclasses import dataclass

from talkwire import Choice, Client


@dataclass
class Person:
    """A dataclass, or a pydantic model, a TypedDict, `list[int]`, ...; or a JSON Schema."""

    name: str
    born: int
    fields: list[str]


NOTE = '{"name": "Ada Lovelace", "born": 1815, "fields": ["mathematics", "poetry"]}'

with Client(temperature=0, max_tokens=100, system="Repeat the JSON exactly.") as client:
    ada: Person = client.chat(NOTE, output=Person).parsed
    print(f"{ada.name}, born in {ada.born}, was good at {' and '.join(ada.fields)}.")

    with client.stream(NOTE, output=Person) as stream:
        for _ in stream:
            print(stream.parsed_so_far)

    trade = Choice("mathematician", "painter")  # there are Regex, Grammar and StructuralTag, too
    print(client.chat("Was Ada Lovelace a mathematician or a painter?", output=trade))
