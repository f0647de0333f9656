"""A way to a server that tests can break, or that begins at another address. Knows no gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Wire:
    """A way to a server that can break, and of which the server need not know that it did."""

    def __init__(self, target: str, source: str) -> None:
        self.deaf = False  # nothing comes back
        self._source = source
        self.far = target  # of connections to come
        self._ends: list[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = []
        self._server: asyncio.Server | None = None
        self._at = 0

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self._at}"

    async def open(self) -> None:
        """Take connections, always at the same address."""
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self._at)
        self._at = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Take no connections."""
        assert self._server
        self._server.close()

    def cut(self, *, half: bool = False) -> None:
        """Break all connections; by `half`, so that the server does not see it."""
        for near, far in self._ends:
            near.transport.abort()
            if not half:
                far.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        host, _, port = self.far.rpartition(":")
        far_reader, far = await asyncio.open_connection(host, port, local_addr=(self._source, 0))
        self._ends.append((near, far))
        await asyncio.gather(self._carry(reader, far), self._carry(far_reader, near, back=True))

    async def _carry(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool = False
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if not (writer.is_closing() or (back and self.deaf)):
                    writer.write(data)


@asynccontextmanager
async def wired(target: str, source: str = "127.0.0.1") -> AsyncIterator[Wire]:
    """Lay a wire to a server, which sees it come from `source`, for the length of the block."""
    wire = Wire(target, source)
    await wire.open()
    try:
        yield wire
    finally:
        wire.close()
        wire.cut()
