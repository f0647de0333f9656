"""A frontend that hangs: it holds connections, and would hold its part of the port for ever."""

import os
import signal
from time import monotonic

import pytest

from fault_table import Table
from several import several
from talkwire import Unavailable

FULL = os.environ.get("TALKWIRE_FAULTS") == "full"


@pytest.mark.skipif(not FULL, reason="takes half a minute: TALKWIRE_FAULTS=full")
def test_a_frontend_that_hangs_is_replaced(table: Table) -> None:
    """It is killed when it has said nothing for long; the other's stream goes on meanwhile."""
    with several("--echo-delay=0.02") as server:
        one, other = server.pids
        with (
            server.client(one) as first,
            server.client(other) as second,
            first.stream("word " * 4000) as dies,
            second.stream("word " * 4000) as lives,
        ):
            next(dies), next(lives)
            os.kill(one, signal.SIGSTOP)
            begin = monotonic()
            with pytest.raises(Unavailable):
                dies.wait()
            seconds = monotonic() - begin
            (new,) = {*server.settled(without=one)} - {other}
            server.server.logs("another takes the place of")
            with server.client(new) as third:
                assert third.chat("a b").text == "a b"
            assert next(lives)

    table.add("a frontend hangs", "streams of another", 1, 0, f"it is gone after {seconds:.0f} s")
