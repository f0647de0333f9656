"""How many fields a message has, before it is parsed. Knows no field's meaning.

Sixteen megabytes of empty messages are a gigabyte once they are parsed, and seconds to walk.
"""

from typing import Any

from google.protobuf.message import Message

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIELD_1 = 1 << 3 | _VARINT


def crowded(data: bytes, kind: type[Message], most: int) -> str:
    """Name the field with which a message comes to more than `most` fields; empty if none does.

    Each element of a list is a field, and each of a map whose values are no messages. A packed list
    of numbers is one. The name is the outermost field's; what is no message is left to the parser.
    """
    if len(data) <= 2 * most:  # a field has two bytes at least
        return ""
    try:
        return _walk(data, kind.DESCRIPTOR, most)
    except IndexError:
        return ""


def head(data: bytes) -> bytes:
    """Take field 1, a number, where it begins a message, as generated code writes it; else b""."""
    try:
        return data[: _varint(data, 1)[1]] if data[0] == _FIELD_1 else b""
    except IndexError:
        return b""


def _walk(data: bytes, kind: Any, most: int) -> str:
    fields, end, at = kind.fields_by_number, len(data), 0
    around: list[tuple[Any, int]] = []  # the messages around the one at hand, and where they end
    name = ""
    for _ in range(most + 1):
        while at >= end:
            if not around:
                return ""
            fields, end = around.pop()
        tag, at = _varint(data, at)
        field, wire_type = fields.get(tag >> 3), tag & 7
        if not around:
            name = field.name if field else f"field {tag >> 3}"
        if wire_type == _VARINT:
            _, at = _varint(data, at)
        elif wire_type == _BYTES:
            size, at = _varint(data, at)
            if field and _has_fields(field.message_type):
                around.append((fields, end))
                fields, end = field.message_type.fields_by_number, at + size
            else:
                at += size
        else:  # a group begins or ends, and has no size
            at += {_FIXED64: 8, _FIXED32: 4}.get(wire_type, 0)
    return name


def _has_fields(kind: Any) -> bool:
    if kind is None or not kind.GetOptions().map_entry:
        return kind is not None
    return kind.fields_by_name["value"].message_type is not None


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError  # no number is so long
