"""`talkwire ready`: tells whether a server serves, by its exit status."""

import sys
from argparse import ArgumentParser
from collections.abc import Sequence

import grpc

from talkwire import Client
from talkwire._foreign import HealthCheckRequest, check
from talkwire._statuses import has_no_health
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
    text = "be content with any answer, as of a server that loads or leaves: for probes of liveness"
    parser.add_argument("--alive", action="store_true", help=text)
    arguments = parser.parse_args(argv)
    with flags.client(arguments) as client:
        if arguments.alive:
            if _answers(client, arguments.timeout):
                return 0
            sys.stderr.write(f"talkwire: {client.target} does not answer\n")
            return FAILED
        if client.ready(arguments.timeout):
            return 0
        sys.stderr.write(f"talkwire: {client.target} does not serve\n")
        return FAILED


def _answers(client: Client, timeout: float) -> bool:
    metadata = tuple(client._options.call_metadata(None))
    request, seconds = HealthCheckRequest(), max(timeout, 0.5)
    try:
        check(client.channel)(
            request, timeout=seconds, metadata=metadata, wait_for_ready=timeout > 0
        )
    except grpc.RpcError as error:
        return has_no_health(error)
    return True
