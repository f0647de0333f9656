"""Who goes next, whoever waits with whatever: properties of the fair queue."""

from collections import Counter
from fractions import Fraction
from typing import TypeAlias

from hypothesis import given, settings
from hypothesis import strategies as st

from talkwire_server.admission.fair_queue import FairQueue, Size, Waiting
from talkwire_server.callers import Caller

MOST, MOST_SIZE = 12, Size(60, 600)
ENDLESS = Size(10**6, 10**6)
CALLERS = [Caller(name=f"{weight}{name}", weight=weight) for weight in (1, 2, 3) for name in "ab"]
ALL = sum(caller.weight for caller in CALLERS)

Queue: TypeAlias = FairQueue[Waiting]

slow = settings(deadline=None, max_examples=300)
callers = st.sampled_from(CALLERS)
items = st.builds(
    Waiting,
    caller=callers,
    places=st.integers(1, 4),
    size=st.builds(Size, *(st.integers(0, most) for most in MOST_SIZE)),
    priority=st.integers(-1, 1),
)
steps = st.lists(st.one_of(items, st.just("pop"), st.integers(0, MOST)), max_size=60)


def emptied(queue: Queue) -> list[Waiting]:
    """Take out all that wait, in the order in which they go."""
    return [*iter(lambda: queue.pop(4), None)]


@slow
@given(steps)
def test_all_are_accounted_for(steps: list[Waiting | str | int]) -> None:
    """The bounds hold; each one that came goes once: by its turn, away, or taken out."""
    queue, inside = Queue(MOST, MOST_SIZE), list[Waiting]()
    for step in steps:
        if isinstance(step, Waiting):
            inside.append(step)
            for gone in queue.push(step, ALL):
                inside.remove(gone)
        elif isinstance(step, str):
            item = queue.pop(4)
            assert (item is None) == (not inside)
            if item:
                inside.remove(item)
        elif step < len(inside):
            item = inside.pop(step)
            assert queue.remove(item)
            assert not queue.remove(item)
        assert len(queue) == len(inside) <= MOST
        assert not is_over(inside)

    assert Counter(emptied(queue)) == Counter(inside)
    assert len(queue) == 0


@slow
@given(st.lists(items, max_size=60))
def test_a_flood_keeps_nobody_out(flood: list[Waiting]) -> None:
    """Who has no more than its share waits; those that give way are the last of who has more."""
    queue, inside = Queue(MOST, MOST_SIZE), list[Waiting]()
    for item in flood:
        inside.append(item)
        weights = sum(caller.weight for caller in {one.caller for one in inside})
        gone = queue.push(item, weights)
        for one in gone:
            line = [other for other in inside if other.caller is one.caller]
            assert is_over(line, Fraction(line[0].caller.weight, weights))
            assert one in (item, max(line, key=lambda i: (i.priority, line.index(i))))
            inside.remove(one)


def is_over(waiting: list[Waiting], share: float | Fraction = 1) -> bool:
    """Tell whether some have more than a share of the queue."""
    sizes = [sum(sizes) for sizes in zip(*(item.size for item in waiting), strict=True)]
    bounds = zip([len(waiting), *sizes], [MOST, *MOST_SIZE], strict=False)
    return any(has > share * most for has, most in bounds)


@slow
@given(st.lists(items, min_size=1, max_size=60))
def test_turns_go_by_weight(waiting: list[Waiting]) -> None:
    """Of two that wait none gets ahead by more than one turn of each, in places by weight."""
    queue = Queue(len(waiting), ENDLESS)
    for item in waiting:
        queue.push(item, 1)
    left = Counter(item.caller for item in waiting)
    most = {c: max(item.places for item in waiting if item.caller is c) for c in left}
    had: Counter[Caller] = Counter()
    for item in emptied(queue):
        left[item.caller] -= 1
        had[item.caller] += item.places
        for one in +left:
            for other in +left:
                ahead = had[one] / one.weight - had[other] / other.weight
                assert ahead <= most[one] / one.weight + most[other] / other.weight


@slow
@given(st.lists(items, max_size=40))
def test_within_a_line_priority_goes_first(waiting: list[Waiting]) -> None:
    """Then who came first."""
    queue = Queue(len(waiting), ENDLESS)
    for item in waiting:
        queue.push(item, 1)
    gone = emptied(queue)
    for caller in CALLERS:
        own = [item for item in waiting if item.caller is caller]
        assert [i for i in gone if i.caller is caller] == sorted(own, key=lambda i: i.priority)


@slow
@given(st.lists(items, max_size=40), st.integers(0, 10), items)
def test_the_wait_is_foreseen(waiting: list[Waiting], served: int, item: Waiting) -> None:
    """`ahead` is right but for what every other caller has of one turn."""
    queue = Queue(100, ENDLESS)
    for one in waiting:
        queue.push(one, 1)
    for _ in range(served):
        queue.pop(4)
    foreseen = queue.ahead(item)
    queue.push(item, 1)
    before = emptied(queue)
    before = before[: before.index(item)]
    others = {one.caller for one in waiting} - {item.caller}
    assert abs(foreseen - sum(one.places for one in before)) <= 4 * len(others)


def test_one_that_needs_many_places_is_not_overtaken() -> None:
    """Nobody goes before the one whose turn it is, or it would never go."""
    queue = Queue(9, ENDLESS)
    large, small = Waiting(caller=CALLERS[0], places=4), Waiting(caller=CALLERS[0])
    queue.push(large, 1)
    queue.push(small, 1)

    assert [queue.pop(3), queue.pop(4)] == [None, large]
    assert queue.pop(3) is small


def test_who_comes_back_finds_its_place() -> None:
    """Who waits with one at a time, and comes again at once, has no more than the others."""
    queue, had = Queue(100, ENDLESS), Counter[Caller]()
    for caller in CALLERS[1:2] + CALLERS[:1] * 50:
        queue.push(Waiting(caller=caller), 2 if caller is CALLERS[1] else 1)
    for _ in range(40):
        item = queue.pop(1)
        assert item
        had[item.caller] += 1
        if item.caller is CALLERS[1]:
            queue.push(Waiting(caller=CALLERS[1]), 2)

    assert abs(had[CALLERS[0]] - had[CALLERS[1]]) <= 1


def test_a_share_is_kept_for_who_is_about() -> None:
    """One whose calls run, and that may come again at any moment, does not find its share taken."""
    queue = Queue(4, ENDLESS)
    gone = [queue.push(Waiting(caller=CALLERS[0]), 2) for _ in range(3)]

    assert [len(one) for one in gone] == [0, 0, 1]


def test_a_queue_for_nobody() -> None:
    """A bound of nothing is one."""
    item = Waiting(caller=CALLERS[0])

    assert Queue(0, ENDLESS).push(item, 1) == [item]
