"""A server of several processes on an echo engine that loads for a while, and dies at SIGUSR1.

python tests/dying_server.py [FLAGS of talkwire serve]
"""

import asyncio
import os
import signal
import sys
from functools import partial
from time import monotonic

import uvloop

from talkwire_server import echo, options
from talkwire_server.echo import EchoCore
from talkwire_server.frontends import Supervisor, nursery
from talkwire_server.lifetime import serve
from talkwire_server.logs import start_logging

LOADING = 0.5  # seconds


class DyingCore(EchoCore):
    """What the echo engines share, if that could die."""

    async def launch(self) -> None:
        """Begin to load, and to listen for the signal."""
        self._died = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._died.set)

    async def ready(self) -> None:
        """Load."""
        await asyncio.sleep(LOADING)

    async def failed(self) -> str:
        """Wait for the signal."""
        await self._died.wait()
        return "as told"


def main() -> int:
    """Serve until told to stop."""
    settings = options.parse(sys.argv[1:], os.environ)
    start_logging(settings)
    nursery.begin()
    core = DyingCore(partial(echo.load, settings))
    return uvloop.run(serve(settings, core, partial(Supervisor, settings, core), monotonic()))


if __name__ == "__main__":
    sys.exit(main())
