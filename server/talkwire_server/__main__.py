"""`python -m talkwire_server` is `talkwire serve`."""

import sys

from talkwire_server.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
