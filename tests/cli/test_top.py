"""`talkwire top`: the figures are those of the servers' pages, in a terminal and through a pipe."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pexpect
import pytest

from processes import launched
from talkwire import Client
from talkwire.cli.metrics import Reading, Window
from terminal import TALKWIRE, free_target, plain, spawned, talkwire

LONG = "word " * 4000


@contextmanager
def watched(*flags: str) -> Iterator[tuple[str, str]]:
    """Run an echo server; yield its address, and its metrics'."""
    metrics = free_target()
    flags = (f"--metrics-port={metrics.partition(':')[2]}", *flags)
    with launched(*flags) as server:
        yield server.target, metrics


def rows(shown: str) -> dict[str, list[str]]:
    """Return the cells of each line by its first."""
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    return {first: rest for first, *rest in lines}


def test_what_servers_do_is_shown_once_without_a_terminal() -> None:
    """Each server has a row, all together one more; one that is not there is named."""
    flags = ("--echo-delay=0.02", "--max-running-requests=3", "--max-queued-requests=7")
    nobody = free_target()
    with ExitStack() as stack:
        one, other = (stack.enter_context(watched(*flags)) for _ in range(2))
        for (target, _), count in ((one, 2), (other, 1)):
            client = stack.enter_context(Client(target))
            for _ in range(count):
                next(stack.enter_context(client.stream(LONG)))
        good = talkwire("top", "--interval=0.5", one[1], other[1])
        bad = talkwire("top", "--interval=0.5", one[1], nobody)

    table = rows(good.out)
    assert (good.status, good.err) == (0, "")
    assert table[one[1]][:3] == ["serving", "2/3", "0/7"]
    assert table[other[1]][:3] == ["serving", "1/3", "0/7"]
    assert table["all"][:4] == ["2", "serving", "3/6", "0/14"]
    assert bad.status == 1
    assert "Connection refused" in bad.out
    assert rows(bad.out)[one[1]][1] == "2/3"


def test_a_terminal_shows_it_in_place() -> None:
    """It goes on with what comes, callers by name, until Ctrl-C."""
    with watched("--metrics-callers=127.0.0.1") as (target, metrics), Client(target) as client:
        child = spawned(*TALKWIRE, "top", "--interval=0.3", metrics, columns=200)
        child.expect_exact(metrics)
        assert child.expect_exact(["127.0.0.1   ", pexpect.TIMEOUT], timeout=1) == 1
        for _ in range(20):
            client.chat("a b c d")
        child.expect_exact("CPU us/tok")
        child.expect(r"127\.0\.0\.1 +[1-9]")
        shown = plain(str(child.before))
        child.sendintr()
        child.expect(pexpect.EOF)
        child.close()

    assert "serving" in shown
    assert child.exitstatus == 130


def test_a_narrow_terminal_shows_the_first_columns_whole() -> None:
    """Those that have no room are left out; names and heads are not cut."""
    with watched() as (_, metrics):
        child = spawned(*TALKWIRE, "top", "--once", "--interval=0.3", metrics, columns=60)
        child.expect(pexpect.EOF)
        shown = rows(plain(str(child.before)))
        child.close()

    assert child.exitstatus == 0
    assert shown["server"] == ["state", "running", "waiting", "tok/s", "chats/s"]
    assert shown[metrics][0] == "serving"
    assert len(shown[metrics]) == 5


@pytest.fixture
def page() -> Iterator[dict[str, str]]:
    """A page of metrics whose text a test sets, and where it is."""
    told = {"text": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = told["text"].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Be silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        told["target"] = f"127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield told
        server.shutdown()


def histogram(*counts: int) -> str:
    buckets = zip(("1.0", "2.0", "+Inf"), counts, strict=True)
    lines = [f'seconds_bucket{{le="{bound}"}} {count}\n' for bound, count in buckets]
    return "# TYPE seconds histogram\n" + "".join(lines) + f"seconds_count {counts[-1]}\n"


def window(page: dict[str, str], *texts: str) -> Window:
    made = Window(60)
    for text in texts:
        page["text"] = text
        made.add(Reading([page["target"]]))
    return made


def test_quantiles_are_of_what_was_observed_meanwhile(page: dict[str, str]) -> None:
    """What was before counts not; between bounds is estimated, beyond them the last is told."""
    seen = window(page, histogram(90, 90, 90), histogram(90, 94, 94))
    beyond = window(page, histogram(0, 0, 0), histogram(0, 0, 4))
    nothing = window(page, histogram(5, 6, 7), histogram(5, 6, 7))

    assert seen.quantile(0.5, "seconds") == pytest.approx(1.5)
    assert seen.quantile(0.99, "seconds") == pytest.approx(1.99)
    assert beyond.quantile(0.5, "seconds") == 2
    assert str(nothing.quantile(0.5, "seconds")) == "nan"


def test_a_server_that_began_anew_has_no_negative_rate(page: dict[str, str]) -> None:
    """Its counters rose from 0, whenever in the window that was."""
    counter = "# TYPE a counter\na_total {}\n"
    seen = window(page, counter.format(100), counter.format(3))
    anew = window(page, *(counter.format(value) for value in (100, 50, 120)))

    assert [rise for _, rise in seen.rises("a_total")] == [3]
    assert [rise for _, rise in anew.rises("a_total")] == [120]


def test_what_is_no_page_of_metrics_is_said(page: dict[str, str]) -> None:
    """In a word, and with the status 1."""
    page["text"] = "<html>nothing {{ here"
    ended = talkwire("top", "--interval=0.1", page["target"])

    assert (ended.status, ended.err) == (1, "")
    assert rows(ended.out)[page["target"]] == ["no", "page", "of", "metrics"]


@pytest.mark.parametrize("flag", ["--interval", "--window"])
def test_seconds_must_be_some(flag: str) -> None:
    ended = talkwire("top", f"{flag}=0")

    assert (ended.status, ended.err) == (2, f"talkwire: {flag} must be > 0\n")
