"""The fields of a message, from its descriptor. Knows no field of any message by name."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from talkwire_server.checks import Support

WELL_KNOWN = "google.protobuf"


def leaves(kind: Descriptor, path: str = "") -> Iterator[tuple[str, FieldDescriptor]]:
    """Name every field that is not a message of the contract's own, however deep it lies."""
    for field in kind.fields:
        below = field.message_type
        if below is None or below.file.package == WELL_KNOWN or below.GetOptions().map_entry:
            yield path + field.name, field
        else:
            yield from leaves(below, f"{path}{field.name}.")


def set_leaves(message: Message, path: str = "") -> set[str]:
    """Name the leaves that are set in a message."""
    found = set()
    for field, value in message.ListFields():
        below = field.message_type
        name = path + field.name
        if below is None or below.file.package == WELL_KNOWN or below.GetOptions().map_entry:
            found.add(name)
        else:
            for item in [value] if isinstance(value, Message) else value:
                found |= set_leaves(item, f"{name}.")
    return found


def set_leaf(message: Message, path: str, field: FieldDescriptor) -> None:
    """Set the leaf at a path, and nothing else, to something that is not its default."""
    *above, name = path.split(".")
    for step in above:
        found = getattr(message, step)
        message = found if isinstance(found, Message) else found.add()
    message.MergeFrom(type(message)(**{name: _value(field)}))


def clear_leaf(message: Message, path: str) -> None:
    """Make the leaf at a path unset, wherever on the way something is repeated."""
    first, _, rest = path.partition(".")
    if not rest:
        message.ClearField(first)
        return
    found = getattr(message, first)
    for item in [found] if isinstance(found, Message) else found:
        clear_leaf(item, rest)


def is_supported(path: str, support: Support) -> bool:
    """Tell whether a table of support has the leaf at a path."""
    for step in path.split("."):
        if support is None:
            return True
        if step not in support:
            return False
        support = support[step]
    return True


def supported(support: Support, path: str = "") -> Iterator[str]:
    """Name the leaves of a table of support."""
    for name, below in (support or {}).items():
        yield from supported(below, f"{path}{name}.") if below else [path + name]


def _value(field: FieldDescriptor) -> Any:
    value = _one(field)
    if field.message_type and field.message_type.GetOptions().map_entry:
        return {1: 1}
    return [value] if field.is_repeated else value


def _one(field: FieldDescriptor) -> Any:
    if field.enum_type:
        return field.enum_type.values[1].number
    if field.message_type:
        return {"Struct": {"a": 1}, "Duration": {"seconds": 1}}.get(field.message_type.name)
    return {
        FieldDescriptor.CPPTYPE_STRING: b"x" if field.type == field.TYPE_BYTES else "x",
        FieldDescriptor.CPPTYPE_BOOL: True,
    }.get(field.cpp_type, 1)
