"""`--frontends N`: several processes that are one server to callers, operators and the kernel."""

import os
import signal
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from processes import launched
from several import Several, alive, descendants, frontends, several, stopped
from talkwire import Client, Overloaded, RequestIdInUse, Stream, Unavailable

LONG = "word " * 4000
SLOW = "--echo-delay=0.02"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def test_all_answer_on_one_port() -> None:
    """Each process has connections, and answers them; asked to stop, all leave with status 0."""
    with several() as server:
        pids = server.pids
        for pid in pids:
            with server.client(pid) as client:
                assert client.chat("hi there").text == "hi there"
                assert client.count_tokens("a b", system="c").prompt_tokens == 3
        status, log = stopped(server)

    assert len(pids) == 2
    assert status == 0
    assert "Traceback" not in log


def test_bounds_are_the_servers() -> None:
    """As many calls run and wait as are allowed, whichever process has them."""
    with several(SLOW, "--max-running-requests=4", "--max-queued-requests=0") as server:
        one, other = server.pids
        with ExitStack() as stack, server.client(one) as first, server.client(other) as second:
            for client in (first, first, first, second):
                next(stack.enter_context(client.stream(LONG)))
            for client in (first, second):
                with pytest.raises(Overloaded) as refused:
                    client.chat("hi")
                assert refused.value.reason == "QUEUE_FULL"
                assert refused.value.retry_after


def test_a_call_waits_for_a_place_of_another_process() -> None:
    """It begins when a call there has left."""
    with several(SLOW, "--max-running-requests=1") as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            with first.stream(LONG) as stream:
                next(stream)
                answers: list[str] = []
                waiting = threading.Thread(target=lambda: answers.append(second.chat("hi").text))
                waiting.start()
                waiting.join(0.3)
                assert waiting.is_alive()
            waiting.join()

    assert answers == ["hi"]


def test_a_caller_has_its_limit_once() -> None:
    """What it has at one process counts at the other, and what it used there, too."""
    with several(SLOW, "--max-running-per-caller=1") as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            with first.stream(LONG) as stream:
                next(stream)
                with pytest.raises(Overloaded, match="1 at once") as refused:
                    second.chat("hi")
            assert refused.value.reason == "QUOTA_EXCEEDED"


def test_what_was_used_counts_everywhere() -> None:
    """The tokens of a call at one process are charged to its caller at all of them."""
    with several("--max-tokens-per-minute=60") as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            first.chat("word " * 100)
            with pytest.raises(Overloaded, match="60 tokens a minute"):
                second.chat("hi")


def test_an_id_is_known_everywhere() -> None:
    """It is in use at the other process, too, and can be aborted from there."""
    with several(SLOW) as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            with first.stream(LONG, request_id="mine") as stream:
                next(stream)
                with pytest.raises(RequestIdInUse):
                    second.chat("hi", request_id="mine")
                assert second.abort("mine")
                answer = stream.wait()
            while second.abort("mine"):  # till word of its end is at the first process
                time.sleep(0.01)

    assert answer.finish_reason == "aborted"


def test_a_frontend_that_dies_is_replaced() -> None:
    """Streams of the other go on; its own callers read UNAVAILABLE, and its places are free."""
    with several(SLOW, "--max-running-requests=2", "--max-queued-requests=0") as server:
        one, other = server.pids
        with (
            server.client(one) as first,
            server.client(other) as second,
            first.stream(LONG) as dies,
            second.stream("word " * 100) as lives,
        ):
            next(dies), next(lives)
            os.kill(one, signal.SIGKILL)
            with pytest.raises(Unavailable) as lost:
                dies.wait()
            pids = server.settled(without=one)
            answer = lives.wait()
        (new,) = {*pids} - {one, other}
        line = server.server.logs("another takes the place")
        with server.client(new) as third, third.stream(LONG) as a, third.stream(LONG) as b:
            next(a), next(b)
        status, log = stopped(server)

    assert lost.value.partial
    assert answer.complete
    assert answer.text == "word " * 100
    assert "frontend" in line
    assert (status, "Traceback" in log) == (0, False)


def test_tokens_of_a_frontend_that_dies_are_charged() -> None:
    """Its callers have spent what their calls might have taken; else a kill would be a gift."""
    with several(SLOW, "--max-tokens-per-minute=60") as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second:
            with first.stream(LONG) as stream:
                next(stream)
                os.kill(one, signal.SIGKILL)
                server.settled(without=one)
            with pytest.raises(Overloaded, match="60 tokens a minute"):
                second.chat("hi")


def test_a_call_ends_that_was_over_before_it_came() -> None:
    """The end of a call may reach the first process along with its beginning."""
    with several(SLOW, "--max-running-requests=1") as server:
        one, other = server.pids
        with server.client(one) as first, server.client(other) as second, first.stream(LONG) as s:
            next(s)
            assert second.chat("hi", time_limit=0.000_001).finish_reason == "time_limit"


def test_a_server_can_be_started_again_at_once() -> None:
    """Connections that its own end has cut do not keep the port."""
    with several(SLOW, "--grace=0") as server:
        port = server.target.rpartition(":")[2]
        with server.client(server.pids[0]) as client, client.stream(LONG) as stream:
            next(stream)
            status, _ = stopped(server)
    with launched("--frontends=2", f"--port={port}") as again:  # of two flags the last counts
        assert again.target.endswith(f":{port}")
        assert status == 1


def test_a_loss_while_the_server_leaves_is_one() -> None:
    """A frontend that dies with a call then is named in the log, and the status is 1."""
    with several(SLOW) as server:
        one, _ = server.pids
        with server.client(one) as client, client.stream(LONG) as stream:
            next(stream)
            server.server.signal(signal.SIGTERM)
            server.server.logs("stopping")
            os.kill(one, signal.SIGKILL)
            status, log = server.server.ends()

    assert status == 1
    assert "ended with status -9" in log
    assert "1 calls did not finish" in log


def test_a_frontend_that_hangs_does_not_keep_the_server() -> None:
    """One that does not drain within the grace, and a while, is killed."""
    with several(SLOW, "--grace=0") as server:
        one, _ = server.pids
        os.kill(one, signal.SIGSTOP)
        status, log = stopped(server)

    assert status == 0
    assert "does not drain; it is killed" in log
    assert not alive(one)


DYING = ("tests/dying_server.py",)


def test_a_frontend_may_die_while_the_engine_starts_anew() -> None:
    """One start serves for both: all frontends are there again."""
    with launched("--frontends=3", "--restart-engine=9", program=DYING) as process:
        server = Several(process)
        first = server.pids
        process.signal(signal.SIGUSR1)
        process.logs("starting it anew")
        os.kill(first[0], signal.SIGKILL)
        process.logs(" serving ")
        while first[0] in server.pids or len(server.pids) < len(first):
            time.sleep(0.02)
        pids = server.pids
        for pid in pids:
            with server.client(pid) as client:
                assert client.chat("hi").text == "hi"
        status, log = stopped(server)

    assert len(pids) == 3
    assert (status, "Traceback" in log) == (0, False)


def test_an_engine_that_dies_before_all_have_loaded_ends_the_server() -> None:
    """Nobody would tell the frontend that still waits for it."""
    with launched("--frontends=2", program=DYING) as process:
        process.logs("listening")
        held = frontends(process)[0]
        os.kill(held, signal.SIGSTOP)
        process.signal(signal.SIGUSR1)
        status, log = process.ends()

    assert status == 1
    assert "the engine died: as told" in log
    assert not alive(held)


def test_who_resumes_goes_on_elsewhere() -> None:
    """A stream with `resume` does not notice that its frontend died."""
    with several(SLOW) as server:
        text = "word " * 100
        with Client(server.target, resume=True) as client, client.stream(text) as stream:
            next(stream)
            for pid in server.pids:
                os.kill(pid, signal.SIGKILL)
            answer = stream.wait()

    assert answer.text == text


def test_shared_streams_spread() -> None:
    """Who shares one stream among all calls finds the process with the fewest: half are on each."""
    with several(SLOW) as server, ExitStack() as stack:
        clients = [
            stack.enter_context(Client(server.target, multiplex=True, retry=None)) for _ in range(8)
        ]
        streams = [stack.enter_context(client.stream(LONG)) for client in clients]
        for stream in streams:
            next(stream)
        os.kill(server.pids[0], signal.SIGKILL)
        lost = [stream for stream in streams if not goes_on(stream)]

    assert len(lost) == 4


def goes_on(stream: Stream) -> bool:
    """Read some more."""
    try:
        return all(next(stream) for _ in range(50))
    except Unavailable:
        return False


def test_a_stop_drains_all() -> None:
    """Health of each says so, and what runs at any ends in full: status 0."""
    with several(SLOW) as server:
        with ExitStack() as stack:
            clients = [stack.enter_context(server.client(pid)) for pid in server.pids]
            watches = [
                health_pb2_grpc.HealthStub(client.channel).Watch(health_pb2.HealthCheckRequest())
                for client in clients
            ]
            told = [next(watch).status for watch in watches]
            streams = [stack.enter_context(client.stream("word " * 50)) for client in clients]
            for stream in streams:
                next(stream)
            server.server.signal(signal.SIGTERM)
            line = server.server.logs("stopping")
            told += [next(watch).status for watch in watches]
            answers = [stream.wait() for stream in streams]
        status, _ = server.server.ends()

    assert "2 calls running" in line
    assert told == [SERVING, SERVING, NOT_SERVING, NOT_SERVING]
    assert all(answer.complete for answer in answers)
    assert status == 0


def test_the_end_of_the_grace_cuts_at_all() -> None:
    """A stream that outlasts it fails as SHUTTING_DOWN, the status is 1, and the log says why."""
    with several(SLOW, "--grace=0.1") as server, ExitStack() as stack:
        streams = [
            stack.enter_context(stack.enter_context(server.client(pid)).stream(LONG))
            for pid in server.pids
        ]
        for stream in streams:
            next(stream)
        server.server.signal(signal.SIGTERM)
        for stream in streams:
            with pytest.raises(Unavailable) as cut:
                stream.wait()
            assert cut.value.reason == "SHUTTING_DOWN"
        status, log = server.server.ends()

    assert "2 calls did not finish within the grace" in log
    assert status == 1


@pytest.mark.parametrize("end", ["kill", "second signal"])
def test_no_process_is_left(end: str) -> None:
    """However the first one ends, all others do."""
    with several(SLOW) as server:
        pids = descendants(server.server.process.pid)
        with server.client(server.pids[0]) as client, client.stream(LONG) as stream:
            next(stream)
            if end == "kill":
                server.server.process.kill()
            else:
                server.server.signal(signal.SIGTERM)
                server.server.logs("stopping")
                server.server.signal(signal.SIGTERM)
            status, _ = server.server.ends()
        while any(map(alive, pids)):
            time.sleep(0.02)

    assert len(pids) >= 3
    assert status in (-signal.SIGKILL, 128 + signal.SIGTERM)


def test_a_signal_to_all_stops_once() -> None:
    """Ctrl-C and a unit's SIGTERM reach each process; streams end in full all the same."""
    with several(SLOW) as server:
        with server.client(server.pids[0]) as client, client.stream("word " * 50) as stream:
            next(stream)
            for number in (signal.SIGINT, signal.SIGTERM):
                for pid in server.pids:
                    os.kill(pid, number)
            server.server.signal(signal.SIGINT)
            answer = stream.wait()
        status, _ = server.server.ends()

    assert answer.complete
    assert status == 0


@pytest.mark.parametrize("shares", [False, True])
def test_a_taken_port_ends_it_with_one_line(shares: bool) -> None:
    """Even where whoever has it would share it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with launched("--frontends=2", f"--port={port}") as server:
            status, log = server.ends()

    (error,) = [line for line in log.splitlines() if "ERROR" in line]
    assert error.endswith(f"cannot listen on 127.0.0.1:{port}: taken, or not this machine's")
    assert status == 1
    assert "Traceback" not in log


def test_what_no_frontend_can_start_with_is_said_once() -> None:
    """A file that is not there ends the server with one line and status 1, as with one process."""
    with launched("--frontends=2", "--token-file=/nowhere") as server:
        status, log = server.ends()

    (error,) = [line for line in log.splitlines() if "ERROR" in line]
    assert error.endswith("/nowhere: cannot be read: No such file or directory")
    assert status == 1
    assert "Traceback" not in log


def test_the_port_is_not_shared_with_other_servers() -> None:
    """Neither a server of one process nor one of several can have it, too."""
    with several() as server:
        port = server.target.rpartition(":")[2]
        for count in (1, 2):
            with launched(f"--frontends={count}", f"--port={port}") as other:
                status, log = other.ends()
            assert status == 1
            assert "taken" in log


def test_what_several_cannot_do_is_refused_by_name() -> None:
    """Status 2, and each flag in one line."""
    with launched("--frontends=2", "--host=unix:/tmp/x", "--admin-port=0") as server:
        status, log = server.ends()

    assert status == 2
    assert "--frontends takes no --host unix:PATH" in log
    assert "--frontends takes no --admin-port" in log


def test_the_end_of_standard_input_stops_all() -> None:
    """With `--stop-on-eof`, as with one process."""
    with several("--stop-on-eof") as server:
        status, log = server.server.ends()  # closes its standard input

    assert "stopping; 0 calls running" in log
    assert status == 0
