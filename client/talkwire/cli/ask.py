"""`talkwire ask`: one question, its answer on stdout, all else on stderr. Knows no terminal."""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence

from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message

from talkwire._request import ChatOptions
from talkwire._sync import Client
from talkwire.cli import flags
from talkwire.cli.status import MEANINGS, Complaint, harmless
from talkwire_proto.v1 import chat_pb2 as pb


def main(argv: Sequence[str]) -> int:
    """Answer the question of the command line, of standard input, or of both."""
    arguments = _parse(argv)
    question = "\n\n".join(filter(None, [" ".join(arguments.question), piped()]))
    with flags.client(arguments) as client:
        request = build(client, question, flags.options(arguments))
        if arguments.no_stream:
            _write_whole(client, request, as_json=arguments.json)
        else:
            write(client, request, as_json=arguments.json)
    return 0


def piped() -> str:
    """Read the question on standard input; empty where that is a terminal, or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    try:
        return sys.stdin.buffer.read().decode().strip()
    except UnicodeDecodeError:
        raise Complaint("standard input is not UTF-8 text") from None


def build(client: Client, question: str, options: ChatOptions) -> pb.ChatRequest:
    """Make the request, or complain about what cannot be sent."""
    if not question:
        raise Complaint("nothing was asked; see talkwire ask --help")
    try:
        return client.request(question, **options)
    except ValueError as error:
        raise Complaint(str(error)) from None


def write(client: Client, request: pb.ChatRequest, *, as_json: bool = False) -> None:
    """Write the answer as it is generated: its text, or a message of the stream a line."""
    end = ""
    try:
        with client.send_stream(request) as stream:
            for chunk in stream:
                piece = _line(chunk.proto) if as_json else _shown(chunk.text)
                end = piece[-1:] or end
                sys.stdout.write(piece)
                sys.stdout.flush()
    finally:
        if end not in ("", "\n"):
            sys.stdout.write("\n")


def _write_whole(client: Client, request: pb.ChatRequest, *, as_json: bool) -> None:
    answer = client.send(request)
    text = _line(answer.proto) if as_json else _shown(answer.text)
    sys.stdout.write(text if text.endswith("\n") else text + "\n")


def _shown(text: str) -> str:
    """Return a text as it is for a pipe, without what steers a terminal for one."""
    return harmless(text) if sys.stdout.isatty() else text


def _line(message: Message) -> str:
    return MessageToJson(message, indent=None, ensure_ascii=False) + "\n"


def _parse(argv: Sequence[str]) -> Namespace:
    statuses = "\n".join(f"  {code:>3}  {meaning}" for code, meaning in MEANINGS.items())
    parser = ArgumentParser(
        prog="talkwire ask",
        description="Ask one question. Standard input, where it is no terminal, is added to it.",
        epilog=f"exit status:\n{statuses}\n\n{flags.ENVIRONMENT}",
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("question", nargs="*", metavar="QUESTION", help="what to ask")
    add("--target", help=flags.TARGET)
    add("--json", action="store_true", help="write a ChatStreamResponse a line, as JSON")
    add("--no-stream", action="store_true", help="wait for the whole answer")
    flags.add_timeout(parser)
    flags.add_options(parser)
    return parser.parse_args(argv)
