"""Which of several servers gets a call: the choice alone, without any I/O."""

from collections import Counter
from threading import Thread
from typing import Any

import grpc
import pytest

from talkwire import AsyncClient, Client, Error, Retry, Unavailable
from talkwire._balance import Balancer, Place, Route, session_of, targets
from talkwire._multiplex import Failure
from talkwire._options import Balance
from talkwire_proto.v1 import chat_pb2 as pb

Code = grpc.StatusCode
RETRY = Retry()
SESSIONS = [f"session {i}" for i in range(3000)]


def balancer(
    balance: Balance = "round_robin", addresses: str = "abc", retry: Retry | None = RETRY
) -> Balancer[Place]:
    made: Balancer[Place] = Balancer(balance, retry, chooses=True)
    made.know(addresses, lambda address: Place(address, serves=True))
    return made


def taken(by: Balancer[Place], session: str = "") -> str:
    """Choose for one more call, which stays."""
    place = by.take(Route(by, session))
    return place.address if place else ""


def way(by: Balancer[Place], session: str, steps: int) -> str:
    """Return where one call goes, and again."""
    route: Route[Place] = Route(by, session)
    return "".join(place.address for _ in range(steps) if (place := by.take(route)))


def failed(code: grpc.StatusCode, begun: str = "") -> Error:
    """Make the failure of a call, that a server had let in or not."""
    error, cause = Unavailable("no", code=code), Failure(code, "no")
    cause.id = begun
    error.__cause__ = cause
    return error


def test_turns_are_even() -> None:
    """Each server has every third call, wherever the first one goes."""
    by = balancer()
    order = "".join(taken(by) for _ in range(30))

    assert Counter(order) == {"a": 10, "b": 10, "c": 10}
    assert order == order[:3] * 10


def test_many_clients_do_not_go_in_step() -> None:
    """The first calls of clients are spread, too."""
    for balance in ("round_robin", "least_requests"):
        assert {taken(balancer(balance)) for _ in range(100)} == {*"abc"}


def test_the_one_with_the_fewest_calls_is_chosen() -> None:
    """Those that run count, not those that were; among equals it goes by turns."""
    by = balancer("least_requests")
    routes: list[Route[Place]] = [Route(by) for _ in range(6)]
    for route in routes:
        by.take(route)
    assert [place.calls for place in by.places] == [2, 2, 2]
    for route in routes:
        if route.place is by.places[1]:
            route.leave()
            route.leave()  # twice is once

    assert [taken(by), taken(by)] == ["b", "b"]
    assert Counter(taken(by) for _ in range(3)) == {"a": 1, "b": 1, "c": 1}


def test_the_first_has_all() -> None:
    """Until it does not serve."""
    by = balancer("first")
    assert [taken(by) for _ in range(3)] == ["a"] * 3
    by.note(by.places[0], serves=False)
    assert taken(by) == "b"


def test_a_session_stays_and_sessions_are_spread() -> None:
    """Whatever the order in which a client knows the servers, and however busy one is."""
    places = {session: taken(balancer(), session) for session in SESSIONS}
    other = balancer("least_requests", "cab")

    assert {session: taken(other, session) for session in SESSIONS} == places
    assert all(900 < count < 1100 for count in Counter(places.values()).values())


def test_only_the_sessions_of_a_server_that_left_move() -> None:
    """They spread over the others, and come back with it."""
    by = balancer()
    before = {session: taken(by, session) for session in SESSIONS}
    by.know("ac", lambda address: Place(address, serves=True))
    after = {session: taken(by, session) for session in SESSIONS}
    moved = Counter(after[one] for one in SESSIONS if before[one] != after[one])

    assert {before[one] for one in SESSIONS if before[one] != after[one]} == {"b"}
    assert all(400 < moved[place] < 600 for place in "ac")
    by.know("abc", lambda address: Place(address, serves=True))
    assert {session: taken(by, session) for session in SESSIONS} == before


def test_a_refused_call_goes_on_in_its_own_order() -> None:
    """Each server once, then round again; where all the sessions of one go, differs."""
    ways = {way(balancer(), session, 3) for session in SESSIONS}
    assert ways == {"abc", "acb", "bac", "bca", "cab", "cba"}
    for session in SESSIONS[:10]:
        first = way(balancer(), session, 3)
        assert way(balancer(), session, 6)[:3] == first
        assert sorted(way(balancer(), session, 6)[3:]) == [*"abc"]
    assert way(balancer(addresses="a"), "x", 3) == "aaa"


def test_one_that_does_not_serve_is_not_chosen() -> None:
    """By any policy; where none serves there is none, unless a call will not wait."""
    for balance in ("round_robin", "least_requests", "first"):
        by = balancer(balance)
        by.note(by.places[0], serves=False)
        assert {taken(by) for _ in range(9)} | {taken(by, one) for one in SESSIONS} <= {"b", "c"}
        for place in by.places:
            by.note(place, serves=False)
        assert taken(by) == ""
        assert by.take(Route(by), blindly=True)


def test_others_are_tried_at_once_and_all_again_later() -> None:
    """What a server let in, and what retry forbids, is not tried again."""
    by, refusal = balancer(), failed(Code.RESOURCE_EXHAUSTED)
    route: Route[Place] = Route(by)
    pauses = []
    for _ in range(12):
        by.take(route)
        pauses.append(route.again(refusal))
    assert [pause == 0 for pause in pauses] == [True, True, False] * 4
    assert [pause is None for pause in pauses] == [False] * 11 + [True]  # four times round

    by.take(route := Route(by))
    assert route.again(failed(Code.UNAVAILABLE, begun="id")) is None
    assert route.again(Error("no", code=Code.INTERNAL)) is None
    by = balancer(retry=None)
    by.take(route := Route(by))
    assert route.again(refusal) is None


def test_where_all_fail_rounds_have_a_budget() -> None:
    """Going to another server costs nothing; to go round again is for one in ten."""
    by, refusal = balancer(), failed(Code.UNAVAILABLE)

    def rounds() -> int:
        route: Route[Place] = Route(by)
        while by.take(route) and route.again(refusal) is not None:
            pass
        return route.rounds

    assert rounds() == 4
    assert [rounds() for _ in range(40)][-1] == 1


def test_threads_lose_no_count() -> None:
    """However many take and leave at once."""
    by = balancer("least_requests")

    def work() -> None:
        for _ in range(2000):
            route: Route[Place] = Route(by)
            by.take(route)
            route.end()

    threads = [Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [place.calls for place in by.places] == [0, 0, 0]


# What names a session


def request(query: str = "", /, **options: Any) -> pb.ChatRequest:
    return Client("x:1").request(query, **options)


def test_all_turns_of_a_conversation_have_one_name() -> None:
    """And so have those that begin alike; a name has 32 characters, however much was said."""
    first = session_of(request("hi", system="s"))
    said = [{"role": "user", "text": "hi"}, {"role": "assistant", "text": "Hello"}]

    assert session_of(request("and now?", messages=said, system="s")) == first
    assert session_of(request("", messages=said[:1], system="s")) == first
    assert len(first) == 32


@pytest.mark.parametrize(
    "other",
    [
        request("ho", system="s"),
        request("hi", system="t"),
        request("hi", system=""),
        request("hi"),
        request("hi", system="s", model="m"),
        request("hi", system="s", cache_salt="c"),
        request("hi", messages=[{"role": "system", "text": "s"}]),
    ],
)
def test_what_begins_otherwise_has_another(other: pb.ChatRequest) -> None:
    """They would share no prefix, or not much of one."""
    assert session_of(other) != session_of(request("hi", system="s"))


# What is told


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_several_servers_can_be_named_in_three_ways(client: type[Client]) -> None:
    """A list, commas, gRPC's own lists; and a name whose addresses they are."""

    def addresses(target: str | list[str]) -> list[str]:
        return client(target)._options.addresses

    assert addresses(["a:1", "b:1"]) == addresses("a:1,b:1") == ["a:1", "b:1"]
    assert addresses("ipv4:1.2.3.4:1,5.6.7.8:1") == ["ipv4:1.2.3.4:1", "ipv4:5.6.7.8:1"]
    assert addresses(["grpcs://a:1", "grpcs://b:1"]) == ["a:1", "b:1"]
    assert client("dns:///a:1")._options.name == "a:1"
    assert not client(["a:1"])._options.several


def test_the_environment_can_name_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """With commas."""
    monkeypatch.setenv("TALKWIRE_TARGET", "a:1,b:1")

    assert Client()._options.addresses == ["a:1", "b:1"]


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ([], {}, "there is none"),
        ("a:1,", {}, "'' is not one server"),
        (["a:1,b:1", "c:1", "c:1"], {}, "'a:1,b:1' is not one server, 'c:1' is there twice"),
        (["a:1", "dns:///b:1"], {}, "'dns:///b:1' must be alone"),
        ("dns:///a", {}, "must be host:port"),
        ("a:1", {"balance": "first"}, "a:1 is one server"),
        (["a:1", "b:1"], {"balance": "random"}, "must be one of round_robin, least_requests"),
        (["localhost:1", "far:1"], {"token": "secret"}, "travel in the clear"),
        (["a:1", "b:1"], {"channel": object()}, "a channel is to one target"),
    ],
)
def test_targets_that_make_no_sense_are_refused(
    client: type[Client], target: Any, options: Any, said: str
) -> None:
    """At once, not at the first call."""
    with pytest.raises(ValueError, match=said):
        client(target, **options)


def test_addresses_of_a_name() -> None:
    """Each once, in an order that all clients have, of both families."""
    found = [(2, 1, 6, "", ("10.0.0.2", 1)), (2, 1, 6, "", ("10.0.0.1", 1))]
    found += [(2, 1, 6, "", ("10.0.0.2", 1)), (10, 1, 6, "", ("::1", 1, 0, 0))]  # type: ignore[list-item]

    assert targets(found) == ["10.0.0.1:1", "10.0.0.2:1", "[::1]:1"]
