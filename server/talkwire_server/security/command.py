"""`talkwire token`: makes a token and its line of a token file."""

import argparse
import json
import sys
from collections.abc import Sequence

from talkwire_server.security.tokens import NAME, make


def main(argv: Sequence[str]) -> int:
    """Write the line to standard output and the token, which is kept nowhere, to standard error."""
    parser = argparse.ArgumentParser(
        prog="talkwire token",
        description="Make a token for `talkwire serve --token-file FILE`.",
        epilog="Standard output has the line for the file, so that `talkwire token ada >> FILE` "
        "adds it. Standard error has the token, which is kept nowhere: hand it to who calls.",
    )
    parser.add_argument("name", help="of who calls; two tokens may have one")
    name = parser.parse_args(argv).name
    if not NAME.fullmatch(name):
        parser.error("a name is 1 to 64 of A-Z a-z 0-9 . _ -")
    token, digest = make()
    sys.stderr.write(f"{token}\n")
    sys.stdout.write(f"- {json.dumps({'name': name, 'sha256': digest})}\n")
    return 0
