"""`talkwire ready`: tells whether a server serves, by its exit status."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

from talkwire.cli import flags
from talkwire.cli.status import FAILED


def main(argv: Sequence[str]) -> int:
    """Ask the server's health."""
    parser = ArgumentParser(
        prog="talkwire ready",
        description="Exit with 0 when the server serves, with 1 when it does not.",
        epilog=flags.ENVIRONMENT,
    )
    parser.add_argument("target", nargs="?", help=flags.TARGET)
    text = "seconds to wait until it serves; default: ask once"
    parser.add_argument("--timeout", type=float, default=0.0, metavar="S", help=text)
    arguments = parser.parse_args(argv)
    with flags.client(arguments) as client:
        if client.ready(arguments.timeout):
            return 0
        sys.stderr.write(f"talkwire: {client.target} does not serve\n")
        return FAILED
