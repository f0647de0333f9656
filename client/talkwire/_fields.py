"""Fields of messages, set from Python's values. Knows no field by name.

What does not fit is said all at once, each fault with the path of its field.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

_WORDS = {
    FieldDescriptor.CPPTYPE_BOOL: "bool",
    FieldDescriptor.CPPTYPE_DOUBLE: "number",
    FieldDescriptor.CPPTYPE_INT32: "whole number",
    FieldDescriptor.CPPTYPE_INT64: "whole number",
    FieldDescriptor.CPPTYPE_STRING: "string",
}


class Faults:
    """What is wrong with the values of one caller."""

    def __init__(self) -> None:
        self._path: list[str] = []
        self._found: list[str] = []

    @contextmanager
    def at(self, step: str) -> Iterator[None]:
        """Take what the block raises for a fault of one part, such as `[2]` or `.name`."""
        self._path.append(step)
        try:
            yield
        except (OverflowError, TypeError, ValueError) as error:
            self._found.append(f"{''.join(self._path)}: {error}")
        finally:
            self._path.pop()

    def check(self) -> None:
        """Raise a ValueError that names every fault, if there are any."""
        if self._found:
            raise ValueError("; ".join(self._found))


def put(message: Message, name: str, value: Any) -> None:
    """Set a field; None leaves it unset. Raises TypeError or ValueError in Python's words."""
    if (field := message.DESCRIPTOR.fields_by_name.get(name)) is None:
        raise ValueError("unknown")
    try:
        if field.is_repeated and isinstance(value, str):
            raise TypeError  # protobuf would take it for a list of letters
        message.MergeFrom(type(message)(**{name: value}))
    except TypeError:
        word = _WORDS.get(field.cpp_type)
        wanted = f"a list of {word}s" if field.is_repeated else f"a {word}"
        msg = f"must be {wanted if word else 'a mapping'}, not {_shown(value)}"
        raise TypeError(msg) from None


def put_each(message: Message, values: Mapping[str, Any], faults: Faults) -> None:
    """Set the fields that a mapping names."""
    for name, value in pairs(values):
        with faults.at(f".{name}"):
            put(message, name, value)


def put_json(struct: Struct, value: Any) -> None:
    """Fill a Struct with a mapping of JSON's own types."""
    try:
        struct.update(dict(pairs(value)))
    except ValueError:
        raise ValueError("must hold JSON values only") from None


def pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Return the items of a mapping. Raises TypeError where it is none."""
    if not isinstance(value, Mapping):
        msg = f"must be a mapping, not {_shown(value)}"
        raise TypeError(msg)
    return iter(value.items())


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {', '.join(sorted({type(v).__name__ for v in value}))}"
    return type(value).__name__
