"""The servers of a client, with asyncio; `_replicas_sync.py` is its twin.

Where there are several, it looks up the name that they have and watches their health, from the
first call on.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from socket import SOCK_STREAM
from time import monotonic
from typing import Any

import grpc

from talkwire._answer import Answer
from talkwire._balance import AGAIN, LOOKUP, Balancer, Route, targets
from talkwire._foreign import SERVING
from talkwire._options import Options, host_port, less
from talkwire._replica_async import AsyncReplica
from talkwire._statuses import from_cancel, has_no_health, no_connection, task_is_cancelled

Hold = Callable[[Any], None]


class AsyncReplicas(Balancer[AsyncReplica]):
    """See `Balancer` for who gets a call."""

    _kind: type[AsyncReplica] = AsyncReplica

    def __init__(self, options: Options, channel: grpc.aio.Channel | None) -> None:
        super().__init__(options.balance or "round_robin", options.retry, chooses=options.several)
        self._options = options
        self._watches: dict[AsyncReplica, asyncio.Task[None]] = {}
        self._begun = False
        self._closed = False
        self._looking: asyncio.Task[None] | None = None
        self._no_address: str | None = None
        self.know(options.addresses, lambda address: self._kind(options, address, channel))

    async def connect(
        self,
        route: Route[AsyncReplica],
        call: dict[str, Any],
        partial: Answer | None = None,
        hold: Hold = lambda _: None,
    ) -> tuple[AsyncReplica, dict[str, Any]]:
        """Choose the server that a call goes to, or next to, and wait until it can.

        Return it, and the call's arguments with the time that is left. `hold` gets what can be
        cancelled meanwhile. Raises `Error`.
        """
        options, begin = self._options, monotonic()
        seconds = options.connect_wait(call["timeout"])
        blindly = not options.wait_for_ready or call["timeout"] == 0
        try:
            while True:
                self._check(partial)
                if self.pause(blindly=blindly):
                    await self.ready(begin + seconds - monotonic(), hold, blindly=blindly)
                if replica := self.take(route, blindly=blindly):
                    break
            if not self.chooses and not blindly:
                await replica.connect(seconds, hold)
            self._check(partial)
        except TimeoutError:
            self._check(partial)
            cause = await self.places[0].cause() if self.places else self._no_address
            raise no_connection(self._options.target, seconds, cause, partial) from None
        except asyncio.CancelledError:
            if task_is_cancelled():
                raise
            raise from_cancel(self._options.target, partial) from None
        except grpc.aio.UsageError:  # of a channel that is closed
            self._check(partial)
            raise
        return replica, less(call, monotonic() - begin)

    async def ready(
        self, seconds: float, hold: Hold = lambda _: None, *, blindly: bool = False
    ) -> None:
        """Wait until one can be chosen.

        Raises:
            TimeoutError: None can after so many seconds.
            Cancelled: The client is closed.

        """
        self._check()
        self._begin()
        end, changed = monotonic() + seconds, asyncio.Event()
        with self.waking(changed.set):
            while pause := self.pause(blindly=blindly):
                left = end - monotonic()
                if left <= 0:
                    if self.serving:
                        return
                    raise TimeoutError
                waiting = asyncio.ensure_future(changed.wait())
                hold(waiting)
                try:
                    await asyncio.wait({waiting}, timeout=min(pause, left))
                    if waiting.cancelled():
                        raise asyncio.CancelledError
                finally:
                    waiting.cancel()
                self._check()
                changed.clear()

    async def known(self, seconds: float) -> None:
        """Wait until there are addresses, or so many seconds are over."""
        with suppress(TimeoutError):
            await self.ready(seconds, blindly=True)

    async def close(self) -> None:
        """Close all channels; running calls are cancelled."""
        self._closed = True
        self._changed()
        for task in filter(None, (self._looking, *self._watches.values())):
            task.cancel()
        for replica in {*self.places, *self._watches}:
            await replica.close()

    @property
    def closed(self) -> bool:
        """Whether it is."""
        return self._closed

    def _check(self, partial: Answer | None = None) -> None:
        if self.closed:
            raise from_cancel(self._options.target, partial)

    def _begin(self) -> None:
        if self.chooses and not self._begun:
            self._watch_all()
            self._begun = True
            if self._options.name:
                self._looking = asyncio.create_task(self._look_up(*host_port(self._options.name)))

    async def _look_up(self, host: str, port: int) -> None:
        """Have the servers be those of a name."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                found = await loop.getaddrinfo(host, port, type=SOCK_STREAM)
                self.know(targets(found), lambda one: self._kind(self._options, one, None))
                self._watch_all()
            except (OSError, ValueError) as error:  # ValueError: no name that DNS could have
                self._no_address = f"{host}: {error}"
            left = [one for one in {*self._watches}.difference(self.places) if not one.calls]
            for replica in left:
                self._watches.pop(replica).cancel()
                await replica.close()
            await asyncio.sleep(LOOKUP if self.places else AGAIN)

    def _watch_all(self) -> None:
        for replica in self.places:
            if replica not in self._watches:
                _ = replica.channel  # fails here if certificates cannot be read: somebody waits
                self._watches[replica] = asyncio.create_task(self._watch(replica))

    async def _watch(self, replica: AsyncReplica) -> None:
        """Keep what is known of a server's health up to date."""
        while True:
            call = replica.health(self._options.watch())
            try:
                async for health in call:
                    self.note(replica, serves=health.status == SERVING)
                self.note(replica, serves=False)
            except grpc.RpcError as error:
                self.note(replica, serves=has_no_health(error))
            finally:
                call.cancel()
            await asyncio.sleep(LOOKUP if replica.serves else AGAIN)
