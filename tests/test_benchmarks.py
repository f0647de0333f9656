"""The benchmarks measure what they say, and take no wrong answer. How fast is not asked here."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cancels import Leave, by_engine
from frontends import contenders
from load.chats import Chats, Expected, Reply, WrongAnswer, texts
from load.clients import Share
from load.figures import figures, marks
from load.measure import Measurement, Plan
from load.report import Result, losses
from processes import ROOT, run
from prometheus import needs_prometheus
from stickiness import Turn
from stickiness import figures as stickiness
from tables import BEGIN, END, PAGES, tables

BENCHMARKS = ROOT / "benchmarks"
SMALL = ("--levels=1,3", "--tokens=5", "--delay=0.001", "--repeats=2", "--chats=2", "--clients=2")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the frontends' benchmark writes of a few chats."""
    out = tmp_path_factory.mktemp("out") / "small"
    done = run(sys.executable, BENCHMARKS / "frontends.py", *SMALL, "--out", out)
    assert done.returncode == 0, done.stderr
    assert out.with_suffix(".png").stat().st_size
    return json.loads(out.with_suffix(".json").read_text())


def seen(result: Any, way: str, name: str) -> list[float]:
    return [one[name] for runs in result["runs"][way].values() for one in runs]


def test_each_server_is_measured(result: Any) -> None:
    """Each way is measured at each level as often as asked."""
    assert result["runs"].keys() == {"talkwire", "talkwire multiplexed", "grpc", "sse"}
    for runs in result["runs"].values():
        assert {level: len(repeats) for level, repeats in runs.items()} == {"1": 2, "3": 2}


def test_bytes_and_messages_are_those_of_the_wire(result: Any) -> None:
    """Five words are five messages, and one that ends them; each has its framing."""
    assert set(seen(result, "grpc", "messages")) == {6 / 5}
    framing = 5 + 9  # of gRPC and of HTTP/2
    assert all(framing + 4 < per_token < 60 for per_token in seen(result, "grpc", "bytes"))
    assert min(seen(result, "sse", "bytes")) > 200  # each chunk names its model


def test_a_server_that_fails_leaves_the_others_figures_alone(tmp_path: Path) -> None:
    """One that does not start and one that answers wrongly are named, and the next is measured."""
    chats = Chats(texts(3), tokens=3)
    wrong = Chats([text.upper() for text in chats.prompts], tokens=3)
    expected = Expected(chats, "stop", exact=True, texts=dict(enumerate(chats.prompts)))
    good, bad = contenders(chats, delay=0)["grpc"], contenders(wrong, delay=0)["sse"]
    none = replace(good, ways={"none": good.ways["grpc"]}, command=lambda _: ["-c", "1/0"])
    measurement = Measurement(Plan([1], repeats=1, chats=1, clients=1, logs=tmp_path), expected)
    for one in (none, bad, good):
        measurement.add(one)

    assert measurement.runs.keys() == {"grpc"}
    assert "ZeroDivisionError" in measurement.failed["none"]
    assert "is answered" in measurement.failed["sse"]


def reply(text: str = "a b", tokens: int = 2, finish: str = "stop") -> Reply:
    return Reply(prompt=0, begun=1.0, at=[1.1, 1.3], tokens=tokens, finish=finish, text=text)


@pytest.mark.parametrize(
    "wrong", [reply("a c"), reply(""), reply(tokens=3), reply(finish="length")]
)
def test_a_wrong_answer_ends_a_benchmark(wrong: Reply) -> None:
    """Other words, none, another length or another end are no answer that counts."""
    expected = Expected(Chats(["a b"], tokens=2), "stop", exact=True, texts={0: "a b"})

    assert expected.check([reply(), reply()]) == 1
    with pytest.raises(WrongAnswer):
        expected.check([reply(), wrong])


def test_answers_that_are_all_alike_show_nothing() -> None:
    """If all prompts had one answer, a text at the wrong place would be taken for right."""
    expected = Expected(Chats(["a"] * 5, tokens=2), "stop", exact=True)

    with pytest.raises(WrongAnswer, match="5 prompts have 1 answers"):
        expected.check([replace(reply(), prompt=prompt) for prompt in range(5)])


def test_where_sums_depend_on_the_batch_the_same_are_counted() -> None:
    """Then other words are counted, but neither another length nor another end is let through."""
    expected = Expected(Chats(["a b"], tokens=2), "stop", exact=False)

    assert expected.check([reply(), reply("a c"), reply(), reply()]) == 0.75
    with pytest.raises(WrongAnswer):
        expected.check([reply(tokens=3)])


def test_figures_are_sums_over_all_clients() -> None:
    """Rates are of the whole time from the first question to the last word."""
    shares = [Share([reply()], cpu=0.02, bytes=10, messages=2) for _ in range(2)]
    told = figures(shares, server_cpu=0.1, server_mb=50, same=1.0)

    wanted = {"rate": 4 / 0.3, "ttft_p50": 100, "gap_p50": 200, "server_us": 25_000}
    wanted |= {"client_us": 10_000, "bytes": 5, "messages": 1}
    assert {name: told[name] for name in wanted} == pytest.approx(wanted)


def test_p99_of_few_is_not_told() -> None:
    """Of less than 100 it would be the most."""
    assert marks("ttft", [0.001] * 99) == {"ttft_p50": 1}
    assert marks("ttft", [0.001] * 99 + [1]) == {"ttft_p50": 1, "ttft_p99": 1}


def test_a_loss_is_one_by_median() -> None:
    """Though some of our runs are better; what a file has no figures of is left out."""
    ours = [{"rate": rate, "bytes": 9} for rate in (10, 20, 40)]
    theirs = [{"rate": rate, "bytes": 9, "ttft_p50": 1} for rate in (15, 30, 35)]
    runs = {"talkwire": {"4": ours}, "sse": {"4": theirs}}

    assert [*losses(Result({"runs": runs}))] == [
        "4 streams, talkwire against sse: tok/s 20 (10-40) to 30 (15-35)"
    ]


def test_the_pages_have_the_tables_of_the_results() -> None:
    """What README and docs say of speed is made from the committed results."""
    for name, results in PAGES.items():
        made = tables(results)
        assert "| --- |" in made
        assert f"{BEGIN}\n{made}\n{END}" in (ROOT / name).read_text(encoding="utf-8")


def test_what_it_costs_to_be_there_is_measured() -> None:
    """Each figure of the footprint is there, however few it is taken of."""
    few = ("--connections=20", "--streams=20", "--repeats=1")
    done = run(sys.executable, BENCHMARKS / "footprint.py", *few)
    assert done.returncode == 0, done.stderr

    told = dict(line.split() for line in done.stdout.splitlines())
    assert told.keys() == {
        *("import_ms", "start_ms", "server_mb", "connection_kb", "stream_kb", "multiplexed_kb")
    }
    assert all(float(told[name]) > 0 for name in ("import_ms", "start_ms", "server_mb"))


@needs_prometheus
def test_the_dashboard_is_drawn(tmp_path: Path) -> None:
    """A short load on the echo engine is enough for a picture."""
    file = tmp_path / "dashboard.png"
    done = run(sys.executable, BENCHMARKS / "dashboard.py", file, "--engine=echo", "--seconds=5")

    assert done.returncode == 0, done.stderr
    assert file.read_bytes().startswith(b"\x89PNG")


def test_what_metrics_cost_is_measured() -> None:
    """In both ways of asking, and alone."""
    few = ("--rounds=2", "--streams=2", "--tokens=4")
    done = run(sys.executable, BENCHMARKS / "metrics_cost.py", *few)
    assert done.returncode == 0, done.stderr

    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "TalkwireCaller:",
        "MultiplexCaller:",
        "a",
        "alone:",
    ]


def test_stickiness_is_measured_in_each_way() -> None:
    """Each turn counts, with its prompt, and its first text; the echo engine caches nothing."""
    few = ("--model=echo", "--conversations=3", "--turns=2", "--repeats=1")
    done = run(sys.executable, BENCHMARKS / "stickiness.py", *few)
    assert done.returncode == 0, done.stderr

    _, *rows = (line.split() for line in done.stdout.splitlines())
    assert [row[0] for row in rows] == ["round_robin", "least_requests", "sticky"]
    for _, turns, tokens, cached, *ttft in rows:
        assert (float(turns), float(cached)) == (6, 0)
        assert float(tokens) > 0
        assert all(float(ms) > 0 for ms in ttft)


def test_hits_are_of_all_tokens() -> None:
    """A long prompt counts for more than a short one; a wait is of the middle turn."""
    turns = [Turn(prompt=300, cached=0, ttft=0.3), Turn(100, 100, 0.1), Turn(100, 100, 0.2)]
    told = stickiness(turns)

    assert told["cached_percent"] == 40
    assert told["ttft_p50_ms"] == pytest.approx(200)


def test_cancels_are_measured_in_both_ways() -> None:
    """The frontend is rid of each; the echo engine has no gauge that would say so."""
    few = ("--model=echo", "--running=4", "--cancels=3", "--tokens=200")
    done = run(sys.executable, BENCHMARKS / "cancels.py", *few)
    assert done.returncode == 0, done.stderr

    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == [
        "talkwire",
        "talkwire multiplexed",
    ]
    assert done.stdout.count("frontend_p99") == 2
    assert "engine" not in done.stdout


def test_a_cancel_that_the_engine_never_told_of_is_counted() -> None:
    """It took at least as long as was waited for it."""
    left = [Leave("a", at=1.0, until=1.5), Leave("b", at=2.0, until=2.25)]
    running = [(0.5, 2), (1.125, 1), (1.75, 2), (3.0, 1)]

    assert by_engine(left, running) == (1, [125.0, 250.0])
