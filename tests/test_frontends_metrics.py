"""The metrics of a server of several processes: one page, of all of them, whoever has died."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from time import sleep

from scraping import Page
from several import Several, several, stopped
from terminal import free_target

LONG = "word " * 4000


@contextmanager
def watched(*flags: str) -> Iterator[tuple[Several, str]]:
    """Run a server of two frontends; yield it, and where its metrics are."""
    target = free_target()
    with several("--echo-delay=0.02", f"--metrics-port={target.partition(':')[2]}", *flags) as one:
        yield one, f"http://{target}/metrics"


def awaited(url: str, name: str, value: float, **labels: str) -> Page:
    """Wait until a metric has a value; messages are counted once a second."""
    while (page := Page(url)).value(name, **labels) < value:
        sleep(0.05)
    assert page.value(name, **labels) == value
    return page


def test_all_count_together_also_what_has_died() -> None:
    """Sums are over both; those of one that was killed stay, but for what it had open."""
    with watched() as (server, url):
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            for client, times in ((first, 2), (second, 3)):
                for _ in range(times):
                    client.chat("a b")
            awaited(url, "grpc_server_msg_sent_total", 5, grpc_method="Chat")
            page = Page(url)
            with first.stream(LONG) as dies, second.stream(LONG) as lives:
                next(dies), next(lives)
                open_ = Page(url).value("talkwire_chats_running")
                os.kill(one, signal.SIGKILL)
                pids = server.settled(without=one)
                while (left := Page(url)).value("talkwire_chats_running") == 2:
                    sleep(0.02)
        (new,) = {*pids} - {one, other}
        server.server.logs("another takes the place")
        with server.client(new) as third:
            third.chat("a b")
        after = awaited(url, "grpc_server_msg_sent_total", 6, grpc_method="Chat")
        awaited(url, "talkwire_chats_aborted_total", 1, cause="client")  # the other's, at its end
        status, log = stopped(server)

    name = "talkwire_chats_total"
    assert [one.value(name, code="OK") for one in (page, left, after)] == [5, 5, 6]
    assert after.value("talkwire_tokens_total", kind="completion") == 12
    assert page.value("talkwire_frontends") == 2
    assert (open_, left.value("talkwire_chats_running")) == (2, 1)
    assert after.value("talkwire_frontend_cpu_seconds_total") > 0
    assert (status, "Traceback" in log) == (0, False)


def test_what_is_counted_last_is_read_before_the_port_is_closed() -> None:
    """While a server drains it serves no new chats, and says so; its counts go on."""
    with watched("--grace=20") as (server, url):
        with server.client(server.pids[0]) as client, client.stream("word " * 100) as stream:
            next(stream)
            server.server.signal(signal.SIGTERM)
            while (page := Page(url)).value("talkwire_serving"):
                sleep(0.02)
            stream.wait()
        status, _ = server.server.ends()

    assert page.value("talkwire_chats_running") == 1
    assert status == 0
