"""The texts of `/request`: they run, and they send the very request."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from talkwire import TLS, Client
from talkwire._options import Options
from talkwire.cli import snippet
from talkwire_proto.v1 import chat_pb2 as pb

# What shells, JSON and Python each have their own idea about.
NASTY = """it's "so" $HOME `id` \\n ! é 🙂\n\ttwo\n"""

PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


def ran(*command: str) -> str:
    """Run a program with this environment's tools; return its stdout, unchanged."""
    environ = os.environ | {"PATH": PATH}
    return subprocess.run(command, capture_output=True, check=True, env=environ).stdout.decode()


def test_the_shell_command_runs(target: str) -> None:
    """Pasted into a shell, the command gets the answer, whatever the request's text is."""
    with Client(target) as client:
        request = client.request(NASTY, system="Don't.", stop=["END"])
    shell = snippet.grpcurl(request, Options(target=target))
    # grpcurl writes the messages one after the other, each on several lines.
    messages = json.loads("[" + ran("sh", "-c", shell).replace("}\n{", "},{") + "]")

    assert "".join(message.get("text", "") for message in messages) == NASTY


def test_the_shell_command_is_for_one_of_several(target: str) -> None:
    """Grpcurl knows no lists."""
    shell = snippet.grpcurl(pb.ChatRequest(query="hi"), Options(target=f"{target},127.0.0.1:1"))

    assert json.loads(ran("sh", "-c", shell).partition("\n}\n")[0] + "}")["text"] == "hi"
    named = snippet.grpcurl(pb.ChatRequest(), Options(target="dns:///chat:1"))
    assert " dns:///chat:1 " in named


def test_the_program_runs(target: str) -> None:
    """Pasted into a file, the program writes the answer."""
    with Client(target) as client:
        request = client.request(NASTY, messages=[{"text": NASTY}], temperature=0.5)

    assert (
        ran(sys.executable, "-c", snippet.python(request, Options(target=target))) == NASTY + "\n"
    )


def test_the_program_sends_the_very_request() -> None:
    """The program's call builds the request that it was made from, whatever was set in it."""
    client = Client("localhost:1")
    request = client.request(
        NASTY,
        messages=[
            {"role": "user", "text": NASTY, "name": "Ann"},
            pb.Message(text="no role"),
            {"role": "assistant", "text": ""},
            {
                "role": "assistant",
                "reasoning": "hm",
                "tool_calls": [{"id": "c", "name": "f", "arguments": '{"a": 1}'}],
            },
            {"role": "tool", "tool_call_id": "c", "text": "1"},
        ],
        system="",
        model="echo",
        temperature=0.0,
        stop=["a", "b"],
        stop_token_ids=[1, 2],
        logit_bias={5: -1.5},
        ignore_eos=False,
    )
    program = snippet.python(request, Options(target="localhost:1"))
    call = program.partition("client.stream(")[2].partition(") as stream")[0]
    built = eval(f"client.request({call})", {"client": client})  # noqa: S307

    request.messages[1].role = pb.ROLE_USER
    assert MessageToDict(built) == MessageToDict(request)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        (Options(target="host:1"), 'grpcurl -plaintext -d \'{"query": "hi"}\' host:1'),
        (
            Options(target="unix:/a b"),
            "grpcurl -plaintext -unix -d '{\"query\": \"hi\"}' '/a b'",
        ),
        (
            Options(target="host:1", tls=TLS("my ca", "cert", "key"), token="secret"),
            "grpcurl -cacert 'my ca' -cert cert -key key "
            '-H "authorization: Bearer $TALKWIRE_TOKEN" -d \'{"query": "hi"}\' host:1',
        ),
    ],
)
def test_the_shell_command_reaches_the_server_as_the_client_does(
    server: Options, expected: str
) -> None:
    """TLS, its files, a socket and a token become grpcurl's flags; a token itself is not shown."""
    request = pb.ChatRequest(query="hi")

    assert snippet.grpcurl(request, server) == f"{expected} talkwire.v1.ChatService/ChatStream"


def test_the_program_reaches_the_server_as_the_client_does() -> None:
    """With TLS, the program turns it on."""
    program = snippet.python(pb.ChatRequest(query="hi"), Options(target="host:1", tls=TLS()))

    assert "\nwith Client('host:1', tls=True) as client:\n" in program
