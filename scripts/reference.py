"""The page of the protocol, docs/reference.md, made of the contract's comments.

scripts/proto.sh runs it: python scripts/reference.py < DESCRIPTOR_SET > docs/reference.md
"""

import re
import sys
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
    SourceCodeInfo,
)

Field = FieldDescriptorProto
Kind: TypeAlias = DescriptorProto | EnumDescriptorProto
At: TypeAlias = tuple[int, ...]
"""Where something stands: field numbers of descriptor.proto and indices, in turn."""

MESSAGE, ENUM, SERVICE, SYNTAX = 4, 5, 6, 12  # of a file
FIELD, NESTED, NESTED_ENUM = 2, 3, 4  # of a message
METHOD = VALUE = 2  # of a service, of an enum
PACKAGE = "talkwire.v1"

HEAD = """\
# Protocol

<!-- made by scripts/reference.py -->

The package `talkwire.v1`, as [chat.proto](../proto/talkwire/v1/chat.proto) has it, with its
comments. It only grows. A server tells it by reflection, too, unless that is off.
"""


class Reference:
    """Writes a file of the contract down as Markdown."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._told: Mapping[At, SourceCodeInfo.Location] = {
            tuple(location.path): location for location in file.source_code_info.location
        }

    def lines(self) -> Iterator[str]:
        """Yield the page: conventions, services, then messages and enums in their order."""
        yield HEAD
        yield from self._conventions()
        for at, service in enumerate(self._file.service):
            yield from self._service((SERVICE, at), service)
        kinds: dict[At, Kind] = {
            **{(MESSAGE, at): one for at, one in enumerate(self._file.message_type)},
            **{(ENUM, at): one for at, one in enumerate(self._file.enum_type)},
        }
        for path in sorted(kinds, key=lambda path: self._told[path].span[0]):
            yield from self._section(path)
            yield from self._kind(path, kinds[path], kinds[path].name)

    def _conventions(self) -> Iterator[str]:
        comment = self._told[SYNTAX,].leading_detached_comments[0]
        _, _, conventions = comment.partition("Conventions\n")
        yield "## Conventions\n"
        for convention in re.split(r"^ +\* ", conventions, flags=re.MULTILINE)[1:]:
            yield f"- {text(convention)}"
        yield ""

    def _section(self, path: At) -> Iterator[str]:
        """Begin a section where a line of dashes stands before what comes."""
        for comment in self._told[path].leading_detached_comments:
            if title := re.match(r" *-{9,} (.+)", comment):
                yield f"## {title[1].strip().capitalize()}\n"

    def _service(self, path: At, service: ServiceDescriptorProto) -> Iterator[str]:
        yield f"## {service.name}\n"
        yield from self._paragraphs(path)
        for at, method in enumerate(service.method):
            yield f"### {method.name}\n"
            request = f"{'stream of ' * method.client_streaming}{link(method.input_type)}"
            response = f"{'stream of ' * method.server_streaming}{link(method.output_type)}"
            yield f"{request} → {response}\n"
            yield from self._paragraphs((*path, METHOD, at))

    def _kind(self, path: At, one: Kind, name: str) -> Iterator[str]:
        yield f"### {name}\n"
        yield from self._paragraphs(path)
        if isinstance(one, EnumDescriptorProto):
            yield from self._values(path, one)
            return
        yield from self._fields(path, one)
        for at, enum in enumerate(one.enum_type):
            yield from self._kind((*path, NESTED_ENUM, at), enum, f"{name}.{enum.name}")
        for at, nested in enumerate(one.nested_type):
            if not nested.options.map_entry:
                yield from self._kind((*path, NESTED, at), nested, f"{name}.{nested.name}")

    def _values(self, path: At, enum: EnumDescriptorProto) -> Iterator[str]:
        yield from ("| # | value | |", "|---|---|---|")
        for at, value in enumerate(enum.value):
            yield f"| {value.number} | `{value.name}` | {self._comment((*path, VALUE, at))} |"
        yield ""

    def _fields(self, path: At, message: DescriptorProto) -> Iterator[str]:
        if message.field:
            yield from ("| # | field | type | |", "|---|---|---|---|")
        for at, field in enumerate(message.field):
            comment = self._comment((*path, FIELD, at))
            if field.HasField("oneof_index") and not field.proto3_optional:
                oneof = message.oneof_decl[field.oneof_index].name
                comment = f"*One of `{oneof}`.* {comment}".rstrip()
            yield f"| {field.number} | `{field.name}` | {type_of(field, message)} | {comment} |"
        yield ""

    def _paragraphs(self, path: At) -> Iterator[str]:
        if path in self._told and (comment := self._told[path].leading_comments):
            yield from (f"{text(paragraph)}\n" for paragraph in comment.split("\n\n"))

    def _comment(self, path: At) -> str:
        told = self._told[path]
        return text(f"{told.leading_comments} {told.trailing_comments}")


def text(comment: str) -> str:
    """Make one line of a comment, with nothing in it that Markdown would take for its own."""
    parts = re.split(r"(`[^`]*`)", " ".join(comment.split()))
    parts[::2] = (re.sub(r"([*<|])", r"\\\1", part) for part in parts[::2])
    return "".join(parts)


def type_of(field: Field, message: DescriptorProto) -> str:
    """Name the type of a field, and lead to what it is."""
    for entry in message.nested_type:
        if entry.options.map_entry and field.type_name.endswith(f".{entry.name}"):
            key, value = (type_of(one, entry) for one in entry.field)
            return f"map of {key} to {value}"
    name = field.type_name and link(field.type_name)
    name = name or Field.Type.Name(field.type).removeprefix("TYPE_").lower()
    if field.label == Field.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if field.proto3_optional else name


def link(name: str) -> str:
    """Lead to a type of the contract; name one of protobuf's."""
    short = name.removeprefix(f".{PACKAGE}.")
    if short == name:
        return name.removeprefix(".")
    return f"[{short}](#{short.lower().replace('.', '')})"


def main() -> None:
    """Write the page of the descriptor set that is read."""
    files = FileDescriptorSet.FromString(sys.stdin.buffer.read()).file
    (file,) = (file for file in files if file.package == PACKAGE)
    print("\n".join(Reference(file).lines()).rstrip())


if __name__ == "__main__":
    main()
