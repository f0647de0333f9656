"""Which of several servers gets a call, and which one after it. Makes no calls."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from math import inf
from random import randrange
from threading import RLock
from time import monotonic
from typing import Any, Generic, TypeVar

from talkwire._errors import Error, Overloaded, Unavailable
from talkwire._multiplex import Tries
from talkwire._options import Balance, Retry
from talkwire._statuses import taken, unheard
from talkwire_proto.v1 import chat_pb2 as pb

# Seconds
_MOMENT = 0.25
LOOKUP = 5.0  # from one look at a name's addresses to the next
AGAIN = 0.2  # to the next where there was none, and from the end of a watch to the next


class Place:
    """What is known of a server.

    Attributes:
        address: Its target.
        serves: Whether its health says that it takes calls.
        calls: How many of this client's it has.

    """

    def __init__(self, address: str, *, serves: bool) -> None:
        self.address = address
        self.serves = serves
        self.calls = 0


P = TypeVar("P", bound=Place)


class Route(Generic[P]):
    """The way of one call from server to server.

    Attributes:
        session: What it belongs to; the empty string for none.
        place: The server that it went to last.

    """

    def __init__(self, balancer: "Balancer[P]", session: str = "") -> None:
        self.session = session
        self.place: P | None = None
        self.tried: set[P] = set()
        self.rounds = 0
        self._balancer = balancer
        self._counted = False

    def go(self, place: P) -> P:
        """Go to a server."""
        self.leave()
        self.place = place
        self.tried.add(place)
        self._count(1)
        return place

    def again(self, error: Error) -> float | None:
        """Return after how many seconds to try anew after a failure; None: not at all."""
        return self._balancer.again(self, error)

    def leave(self) -> None:
        """Be at no server any more."""
        self._count(-1)

    def end(self) -> None:
        """Be at no server any more: the call went well."""
        if self._counted:
            self._balancer.earn()
        self._count(-1)

    def _count(self, step: int) -> None:
        with self._balancer.lock:
            if self.place and self._counted == (step < 0):
                self._counted = step > 0
                self.place.calls += step


class Balancer(Generic[P]):
    """The servers of a client, and its calls among them. Threads may share it.

    A session is where its rendezvous hash is highest: all clients choose alike, sessions spread
    evenly, and where a server leaves, only its own sessions move, each to its next highest.
    What a server refused or lost goes to one that the call was not at; when there is none, it is
    tried again as `retry` says.

    Attributes:
        places: The servers.
        chooses: Whether there are several. Of one, gRPC itself tries again.

    Args:
        balance: Where a call of no session goes.
        retry: How often a call goes round all servers.

    """

    def __init__(self, balance: Balance, retry: Retry | None, *, chooses: bool) -> None:
        self.places: list[P] = []
        self.chooses = chooses
        self.lock = RLock()
        self._balance = balance
        self._retry = retry
        self._tries = Tries(retry)
        self._turn = randrange(1 << 16)  # noqa: S311  # else many clients would go in step
        self._first = 0.0  # when one served
        self._waiting: set[Callable[[], object]] = set()

    @property
    def serving(self) -> list[P]:
        """Those that take calls."""
        return [place for place in self.places if place.serves]

    def take(self, route: Route[P], *, blindly: bool = False) -> P | None:
        """Choose the server that a call goes to, or next to; None where none serves.

        `blindly` then chooses among the others.
        """
        with self.lock:
            able = self.serving or (self.places if blindly else [])
            if not able:
                return None
            fresh = [place for place in able if place not in route.tried]
            if not fresh:
                route.tried.clear()
                fresh = [place for place in able if place is not route.place] or able
            return route.go(self._choose(fresh, route.session))

    def one(self) -> P | None:
        """Choose one for what is not counted; None where no address is known."""
        route: Route[P] = Route(self)
        place = self.take(route, blindly=True)
        route.leave()
        return place

    def again(self, route: Route[P], error: Error) -> float | None:
        """Return after how many seconds to try a call anew that failed so; None: not at all."""
        attempts = self._retry.attempts if self._retry else 1
        if attempts == 1 or error.__cause__ is None or taken(error):
            return None
        if not self.chooses:
            route.rounds += unheard(error)
            return 0.0 if unheard(error) and route.rounds < attempts else None
        if not isinstance(error, Unavailable | Overloaded):
            return None
        if not route.tried.issuperset(self.serving):
            return 0.0
        route.rounds += 1
        with self.lock:
            return self._tries.spend(route.rounds, error.retry_after)

    def earn(self) -> None:
        """Count a call that went well, for the budget of those that do not."""
        with self.lock:
            self._tries.earn()

    def pause(self, *, blindly: bool = False) -> float:
        """Return the seconds after which to choose, if nothing changes until then.

        While none serves, for ever; when the first does, a moment, as others may be as near.
        """
        serving = self.serving
        if not serving:
            return 0.0 if blindly and self.places else inf
        self._first = self._first or monotonic()
        if len(serving) == len(self.places):
            return 0.0
        return max(0.0, self._first + _MOMENT - monotonic())

    def know(self, addresses: Iterable[str], make: Callable[[str], P]) -> None:
        """Have a server of each address, and no other; `make` makes one."""
        wanted = list(dict.fromkeys(addresses))
        with self.lock:
            had = {place.address: place for place in self.places}
            self.places = [had.pop(address, None) or make(address) for address in wanted]
        self._changed()

    def note(self, place: P, *, serves: bool) -> None:
        """Note what a server's health says."""
        if place.serves != serves:
            place.serves = serves
            self._changed()

    @contextmanager
    def waking(self, wake: Callable[[], object]) -> Iterator[None]:
        """Call this at each change, for the length of the block."""
        with self.lock:
            self._waiting.add(wake)
        try:
            yield
        finally:
            with self.lock:
                self._waiting.discard(wake)

    def _changed(self) -> None:
        with self.lock:
            waiting = [*self._waiting]
        for wake in waiting:
            wake()

    def _choose(self, places: Sequence[P], session: str) -> P:
        if session:
            return max(places, key=lambda place: _weight(session, place.address))
        if self._balance == "first":
            return places[0]
        self._turn += 1
        at = self._turn % len(places)
        turned = [*places[at:], *places[:at]]
        if self._balance == "round_robin":
            return turned[0]
        return min(turned, key=lambda place: place.calls)


def session_of(request: pb.ChatRequest) -> str:
    """Name the conversation of a request by what all its turns begin with.

    That is what they share of a prefix cache: model, salt, system prompts and the user's first
    message. The name tells nothing of them, but is the same for those that begin alike.
    """
    begin = pb.ChatRequest(model=request.model, cache_salt=request.cache_salt)
    if request.HasField("system"):
        begin.system = request.system
    for message in (*request.messages, pb.Message(role=pb.ROLE_USER, text=request.query)):
        begin.messages.append(message)
        if message.role in (pb.ROLE_USER, pb.ROLE_UNSPECIFIED):
            begin.messages[-1].role = pb.ROLE_USER
            break
    return blake2b(begin.SerializeToString(deterministic=True), digest_size=16).hexdigest()


def targets(found: Iterable[Any]) -> list[str]:
    """Return the targets of what `getaddrinfo` found."""
    pairs = {sockaddr[:2] for *_, sockaddr in found}
    return sorted(f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip, port in pairs)


def _weight(session: str, address: str) -> bytes:
    return blake2b(f"{session} {address}".encode(), digest_size=8).digest()
