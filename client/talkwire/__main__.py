"""`python -m talkwire` is `talkwire`."""

import sys

from talkwire.cli import main

if __name__ == "__main__":
    sys.exit(main())
