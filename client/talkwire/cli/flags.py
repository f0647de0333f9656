"""The flags that `chat` and `ask` share, and what the clients make of them. Knows no terminal."""

from argparse import SUPPRESS, ArgumentParser, Namespace
from functools import partial
from typing import cast

from talkwire._request import ChatOptions
from talkwire._sync import Client
from talkwire.cli.status import Complaint

TARGET = "host:port[,host:port...] or unix:PATH; default: $TALKWIRE_TARGET, else localhost:50051"

ENVIRONMENT = (
    "TLS and tokens come from the environment: TALKWIRE_TLS=1, TALKWIRE_CA_FILE,\n"
    "TALKWIRE_CERT_FILE, TALKWIRE_KEY_FILE, TALKWIRE_TOKEN."
)


def add_options(parser: ArgumentParser) -> None:
    """Add a flag for each of the more common options of a chat."""
    group = parser.add_argument_group("the request", "What is left out is the model's to decide.")
    add = partial(group.add_argument, default=SUPPRESS)
    add("--model", metavar="NAME", help="a model that the server has")
    add("--system", metavar="TEXT", help='system prompt; "" for none')
    add("--temperature", type=float, metavar="T", help="0 is greedy")
    add("--top-p", type=float, metavar="P", help="sample from this share of probability")
    add("--max-tokens", type=int, metavar="N", help="longest answer")
    add("--seed", type=int, metavar="N", help="make sampling repeatable")
    add("--stop", action="append", metavar="WORD", help="end the answer here; may be repeated")


def options(arguments: Namespace) -> ChatOptions:
    """Pick the options of the chat out of the parsed flags: only those that were given."""
    names = ChatOptions.__optional_keys__
    return cast(ChatOptions, {k: v for k, v in vars(arguments).items() if k in names})


def add_timeout(parser: ArgumentParser) -> None:
    """Add `--timeout`."""
    text = "seconds that an answer may take; default: $TALKWIRE_TIMEOUT, else 600"
    parser.add_argument("--timeout", type=float, metavar="S", help=text)


def client(
    arguments: Namespace, *, connect_timeout: float = 10.0, tls: bool | None = None
) -> Client:
    """Make the client that the parsed flags and the environment describe."""
    try:
        return Client(
            arguments.target,
            timeout=arguments.timeout,
            connect_timeout=connect_timeout,
            tls=tls,
        )
    except ValueError as error:
        raise Complaint(str(error)) from None
