"""A request as others would send it: a grpcurl command, a Python program. Pure text."""

import shlex
from collections.abc import Iterator
from typing import Any

from google.protobuf.json_format import MessageToDict, MessageToJson

from talkwire._options import Options
from talkwire_proto.v1 import chat_pb2 as pb


def grpcurl(request: pb.ChatRequest, server: Options) -> str:
    """Return the shell command; a token is read from TALKWIRE_TOKEN, never shown."""
    words = ["grpcurl"]
    if not server.tls:
        words.append("-plaintext")
    else:
        files = {"-cacert": server.tls.ca_file, "-cert": server.tls.cert_file}
        files["-key"] = server.tls.key_file
        words += [f"{flag} {shlex.quote(path)}" for flag, path in files.items() if path]
    if server.token:
        words.append('-H "authorization: Bearer $TALKWIRE_TOKEN"')
    target = [*server.addresses, server.target][0]  # of several any will do
    if target.startswith("unix:"):
        words.append("-unix")
    body = MessageToJson(request, indent=None, ensure_ascii=False)
    address = shlex.quote(target.removeprefix("unix:"))
    words += [f"-d {shlex.quote(body)}", address, "talkwire.v1.ChatService/ChatStream"]
    return " ".join(words)


def python(request: pb.ChatRequest, server: Options) -> str:
    """Return the program; tokens and certificates are read from the environment."""
    tls = ", tls=True" if server.tls else ""
    arguments = "".join(f"        {argument},\n" for argument in _arguments(request))
    return f"""\
from talkwire import Client

with Client({server.target!r}{tls}) as client:
    with client.stream(
{arguments}    ) as stream:
        for chunk in stream:
            print(chunk, end="", flush=True)
    print()"""


def _arguments(request: pb.ChatRequest) -> Iterator[str]:
    yield repr(request.query)
    if request.messages:
        lines = "".join(f"            {_message(message)!r},\n" for message in request.messages)
        yield f"messages=[\n{lines}        ]"
    if request.HasField("system"):
        yield f"system={request.system!r}"
    if request.model:
        yield f"model={request.model!r}"
    for field, value in request.sampling.ListFields():
        yield f"{field.name}={_plain(value)!r}"


def _message(message: pb.Message) -> dict[str, Any]:
    role = pb.Role.Name(message.role or pb.ROLE_USER).removeprefix("ROLE_").lower()
    return {**MessageToDict(message, preserving_proto_field_name=True), "role": role}


def _plain(value: Any) -> Any:
    """Turn a repeated field into a list, a map into a dict; leave the others."""
    if isinstance(value, str | int | float):
        return value
    return dict(value) if hasattr(value, "items") else list(value)
