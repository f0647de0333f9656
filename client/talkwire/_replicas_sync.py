"""The servers of a client, blocking; `_replicas_async.py` is its twin. Each watch has a thread.

Where there are several, it looks up the name that they have and watches their health, from the
first call on.
"""

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Thread
from time import monotonic
from typing import Any

import grpc

from talkwire._answer import Answer
from talkwire._balance import AGAIN, LOOKUP, Balancer, Route, targets
from talkwire._foreign import SERVING
from talkwire._options import Options, host_port, less
from talkwire._replica_sync import Replica
from talkwire._statuses import from_cancel, has_no_health, no_connection

Hold = Callable[[Any], None]


class _Cancelled(Exception):
    """The wait was cancelled."""


class _Waiting(Event):
    """A wait that can be cancelled."""

    cancelled = False

    def cancel(self) -> None:
        """End the wait."""
        self.cancelled = True
        self.set()


class Replicas(Balancer[Replica]):
    """See `Balancer` for who gets a call."""

    _kind: type[Replica] = Replica

    def __init__(self, options: Options, channel: grpc.Channel | None) -> None:
        super().__init__(options.balance or "round_robin", options.retry, chooses=options.several)
        self._options = options
        self._watches: set[Replica] = set()
        self._begun = False
        self._closed = Event()
        self._no_address: str | None = None
        self.know(options.addresses, lambda address: self._kind(options, address, channel))

    def connect(
        self,
        route: Route[Replica],
        call: dict[str, Any],
        partial: Answer | None = None,
        hold: Hold = lambda _: None,
    ) -> tuple[Replica, dict[str, Any]]:
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
                    self.ready(begin + seconds - monotonic(), hold, blindly=blindly)
                if replica := self.take(route, blindly=blindly):
                    break
            if not self.chooses and not blindly:
                replica.connect(seconds, hold)
            self._check(partial)
        except TimeoutError:
            self._check(partial)
            cause = self.places[0].cause() if self.places else self._no_address
            raise no_connection(options.target, seconds, cause, partial) from None
        except (_Cancelled, grpc.FutureCancelledError):
            raise from_cancel(options.target, partial) from None
        except ValueError:  # of a channel that is closed
            self._check(partial)
            raise
        return replica, less(call, monotonic() - begin)

    def ready(self, seconds: float, hold: Hold = lambda _: None, *, blindly: bool = False) -> None:
        """Wait until one can be chosen.

        Raises:
            TimeoutError: None can after so many seconds.
            Cancelled: The client is closed.

        """
        self._check()
        self._begin()
        end, changed = monotonic() + seconds, _Waiting()
        hold(changed)
        with self.waking(changed.set):
            while pause := self.pause(blindly=blindly):
                left = end - monotonic()
                if left <= 0:
                    if self.serving:
                        return
                    raise TimeoutError
                changed.wait(min(pause, left))
                if changed.cancelled:
                    raise _Cancelled
                self._check()
                changed.clear()

    def known(self, seconds: float) -> None:
        """Wait until there are addresses, or so many seconds are over."""
        with suppress(TimeoutError):
            self.ready(seconds, blindly=True)

    def close(self) -> None:
        """Close all channels; running calls are cancelled."""
        self._closed.set()
        self._changed()
        with self.lock:
            replicas = {*self.places, *self._watches}
        for replica in replicas:
            replica.close()

    @property
    def closed(self) -> bool:
        """Whether it is."""
        return self._closed.is_set()

    def _check(self, partial: Answer | None = None) -> None:
        if self.closed:
            raise from_cancel(self._options.target, partial)

    def _begin(self) -> None:
        if self.chooses and not self._begun:
            self._watch_all()
            with self.lock:
                begun, self._begun = self._begun, True
            if self._options.name and not begun:
                _thread(self._look_up, *host_port(self._options.name))

    def _look_up(self, host: str, port: int) -> None:
        """Have the servers be those of a name."""
        while not self._closed.is_set():
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                self.know(targets(found), lambda one: self._kind(self._options, one, None))
                self._watch_all()
            except (OSError, ValueError) as error:  # ValueError: no name that DNS could have
                self._no_address = f"{host}: {error}"
            with self.lock:
                left = [one for one in self._watches.difference(self.places) if not one.calls]
                self._watches.difference_update(left)
            for replica in left:
                replica.close()
            self._closed.wait(LOOKUP if self.places else AGAIN)

    def _watch_all(self) -> None:
        with self.lock:
            new = [one for one in self.places if one not in self._watches]
            for replica in new:
                _ = replica.channel  # fails here if certificates cannot be read: somebody waits
            self._watches.update(new)
        for replica in new:
            _thread(self._watch, replica)

    def _watch(self, replica: Replica) -> None:
        """Keep what is known of a server's health up to date."""
        while replica in self._watches and not self._closed.is_set():
            try:
                for health in replica.health(self._options.watch()):
                    self.note(replica, serves=health.status == SERVING)
                self.note(replica, serves=False)
            except grpc.RpcError as error:
                self.note(replica, serves=has_no_health(error))
            except ValueError:  # the channel is closed
                return
            self._closed.wait(LOOKUP if replica.serves else AGAIN)


def _thread(work: Callable[..., None], *args: Any) -> None:
    Thread(target=work, args=args, name="talkwire-replicas", daemon=True).start()
