"""`talkwire chat`: the terminal chat, from the first look at the server to Ctrl-D.

With a pipe instead of a terminal it answers what comes through and ends, as `talkwire ask` does.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from talkwire._answer import Answer
from talkwire._errors import ConnectError, ContextLengthExceeded, Error, Unavailable
from talkwire._sync import Client
from talkwire.cli import ask, flags
from talkwire.cli.commands import COMMANDS, Ask, run
from talkwire.cli.local import serving
from talkwire.cli.talk import Talk
from talkwire_proto.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    from talkwire.cli.screen import Screen


def main(argv: Sequence[str]) -> int:
    """Chat until Ctrl-D, or answer what comes through a pipe."""
    arguments, server_arguments = _parse(argv)
    terminal = sys.stdin is not None and sys.stdin.isatty()
    chat = _chat if terminal else _answer
    chat(arguments, server_arguments)
    return 0


def _answer(arguments: Namespace, server_arguments: Sequence[str]) -> None:
    question = ask.piped()
    with ExitStack() as stack:
        client = flags.client(arguments, tls=_tls(arguments))
        request = ask.build(client, question, flags.options(arguments))
        if arguments.local:
            stack.enter_context(serving(client.target, server_arguments, _note))
        stack.enter_context(client)
        ask.write(client, request)


def _tls(arguments: Namespace) -> bool | None:
    return False if arguments.local else None  # a server of the chat's own speaks none


def _chat(arguments: Namespace, server_arguments: Sequence[str]) -> None:
    from talkwire.cli.screen import Screen

    screen = Screen({name: command.words for name, command in COMMANDS.items()})
    with ExitStack() as stack:
        client = flags.client(arguments, connect_timeout=3.0, tls=_tls(arguments))
        if arguments.local:
            stack.enter_context(serving(client.target, server_arguments, screen.note))
        stack.enter_context(client)
        talk = Talk(client, **flags.options(arguments))
        model = _meet(client, talk.options.get("model", ""), screen)
        screen.show(f"{model.id}, context of {model.max_context_tokens} tokens", "bold")
        screen.note(f"on {client.target}; Ctrl-C stops an answer, Ctrl-D leaves, /help lists more")
        _loop(talk, screen)


def _meet(client: Client, name: str, screen: "Screen") -> pb.Model:
    """Wait until the server serves; return the model."""
    with screen.waiting(f"connecting to {client.target}") as say:
        while True:
            try:
                model = client.model(name)
                break
            except ConnectError:
                say(f"nothing answers at {client.target} yet; Ctrl-C leaves")
        while not client.ready(1.0):
            say(f"{model.id} is loading; Ctrl-C leaves")
        return client.model(name)  # now it knows the length of its context


def _loop(talk: Talk, screen: "Screen") -> None:
    while True:
        try:
            if (line := screen.read()) is None:
                return
            if line:
                _turn(line, talk, screen)
        except KeyboardInterrupt:  # in a command that asks the server
            screen.note("stopped")


def _turn(line: str, talk: Talk, screen: "Screen") -> None:
    try:
        outcome = run(line, talk) if line.startswith("/") else Ask(line)
        if isinstance(outcome, str):
            screen.show(outcome)
            return
        answer = talk.ask(outcome.query, screen.write, screen.think)
        screen.show("")
        screen.note(summary(answer))
    except Error as error:
        screen.error(error.message + _advice(error))
    except (OSError, ValueError) as error:
        screen.error(str(error))


def summary(answer: Answer) -> str:
    """Return what an answer cost and why it ended, on one line."""
    if not answer.complete:
        return "stopped"
    usage, timing = answer.usage, answer.timing
    cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
    parts = [f"{usage.prompt_tokens} in{cached}", f"{usage.completion_tokens} out"]
    parts.append(f"first token {timing.first_token * 1000:.0f} ms")
    if usage.completion_tokens > 1 and timing.total > timing.first_token:
        speed = (usage.completion_tokens - 1) / (timing.total - timing.first_token)
        parts.append(f"{speed:.0f} tok/s")
    stop = "" if answer.stopped_by is None else f" at {answer.stopped_by!r}"
    return " · ".join([*parts, answer.finish_reason + stop])


def _advice(error: Error) -> str:
    match error:
        case ContextLengthExceeded():
            return " - /clear or /undo makes room"
        case Unavailable():
            return " - /retry asks again"
    return ""


def _note(text: str) -> None:
    dim, plain = ("\x1b[2m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
    sys.stderr.write(f"{dim}{text}{plain}\n")
    sys.stderr.flush()


def _parse(argv: Sequence[str]) -> tuple[Namespace, Sequence[str]]:
    own, server = list(argv), []
    if "--" in own:
        at = own.index("--")
        own, server = own[:at], own[at + 1 :]
    parser = ArgumentParser(
        prog="talkwire chat",
        usage="%(prog)s [options] [TARGET] [--local [-- SERVER ARGUMENTS]]",
        description="Talk to a model in this terminal. With a pipe, answer it and end.",
        epilog=flags.ENVIRONMENT,
    )
    add = parser.add_argument
    add("target", nargs="?", metavar="TARGET", help=flags.TARGET)
    text = "start a server for this chat unless one serves TARGET; what follows -- is for it"
    add("--local", action="store_true", help=text)
    flags.add_timeout(parser)
    flags.add_options(parser)
    arguments = parser.parse_args(own)
    if server and not arguments.local:
        parser.error("what follows -- is for the server of --local")
    return arguments, server
