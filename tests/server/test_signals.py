"""Signals and children: what a terminal's Ctrl-C reaches, in processes of their own."""

import subprocess
import sys

import pytest

PROGRAM = """
import multiprocessing, signal, sys, threading
from talkwire_server.signals import shield_children

def report(pipe):
    pipe.send(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()))

def start(found):
    shield_children()
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    child = context.Process(target=report, args=(theirs,))
    child.start()
    found.append(ours.recv())
    child.join()

if __name__ == "__main__":
    found = []
    thread = threading.Thread(target=start, args=(found,))
    thread.start()
    thread.join()
    here = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())
    sys.stdout.write(f"child {found[0]}, here {here}")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_of_a_shielded_thread_do_not_get_sigint(
    method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However they start, SIGINT is blocked in them, and in this process it is not."""
    program = tmp_path_factory.mktemp("shield") / "program.py"
    program.write_text(PROGRAM)
    ran = subprocess.run(
        [sys.executable, program, method], capture_output=True, text=True, timeout=60
    )

    assert (ran.stdout, ran.stderr) == ("child True, here False", "")


ORPHAN = """
import multiprocessing, os, sys, time
from talkwire_server.signals import end_with_parent

def stay(pipe):
    end_with_parent()
    pipe.send(os.getpid())
    time.sleep(60)

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    ours, theirs = context.Pipe()
    context.Process(target=stay, args=(theirs,)).start()
    sys.stdout.write(f"{ours.recv()}")
    sys.stdout.flush()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_does_not_outlive_a_parent_that_is_killed(
    method: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However it started, it ends with its parent: the pipe that it has from there is closed."""
    program = tmp_path_factory.mktemp("orphan") / "program.py"
    program.write_text(ORPHAN)
    ran = subprocess.run([sys.executable, program, method], stdout=subprocess.PIPE, timeout=50)

    assert ran.returncode == -9
    assert int(ran.stdout)
