"""The core of echo engines, which share nothing."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.echo.engine import CAPACITY
from talkwire_server.engine import Engine


class EchoCore:
    """See `talkwire_server.engine.Core` for the contract. `make` makes one of the engines."""

    def __init__(self, make: Callable[[], Engine]) -> None:
        self.capacity = CAPACITY
        self.environment: Mapping[str, str] = {}
        self._make = make

    def seat(
        self,
        number: int,  # noqa: ARG002  # the protocol
        models: Sequence[pb.Model],  # noqa: ARG002
    ) -> Callable[[], Engine]:
        """Make any of the engines."""
        return self._make

    def feel(self, number: int, unfinished: int, steps: int) -> None:
        """Need not know."""

    async def launch(self) -> None:
        """Do nothing."""

    async def ready(self) -> None:
        """Return at once."""

    async def failed(self) -> str:
        """Wait for ever: it cannot die."""
        return await asyncio.Future[str]()

    async def stop(self) -> None:
        """Do nothing."""
