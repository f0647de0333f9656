"""A line of messages between two processes of this server. Knows not what they mean."""

import asyncio
import pickle
import socket
from collections.abc import AsyncIterator
from typing import Any, Self

_HEAD = 4  # bytes, which say how many follow


class Link:
    """One end. Those of one turn of the event loop go together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._outbox: list[Any] = []

    @classmethod
    async def over(cls, line: socket.socket) -> Self:
        """Talk over one end of a `socket.socketpair`."""
        return cls(*await asyncio.open_unix_connection(sock=line))

    def send(self, message: Any) -> None:
        """Send a message; into the void, if nobody is there any more."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(message)

    async def receive(self) -> AsyncIterator[Any]:
        """Yield messages until the other end is closed, as it is when its process ends."""
        try:
            while True:
                head = await self._reader.readexactly(_HEAD)
                # From a process of our own, over a line that no other has.
                messages = pickle.loads(  # noqa: S301
                    await self._reader.readexactly(int.from_bytes(head))
                )
                for message in messages:
                    yield message
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    @property
    def closed(self) -> bool:
        """Whether either end has hung up, as far as is known."""
        return self._writer.is_closing()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _flush(self) -> None:
        data, self._outbox = pickle.dumps(self._outbox), []
        if not self._writer.is_closing():
            self._writer.write(len(data).to_bytes(_HEAD) + data)
