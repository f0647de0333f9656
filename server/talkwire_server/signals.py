"""Signals: the one module that knows them."""

import asyncio
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker

# A forked child shares the pipe that wakes the parent's loop: what signals the child gets, the
# parent would believe to have got itself.
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


class Stop:
    """The wish to stop. The first signal asks; the second ends the process at once."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Ask for a stop."""
        self._asked.set()

    async def wait(self) -> None:
        """Return when a stop was asked for."""
        await self._asked.wait()

    def _on_signal(self, number: int) -> None:
        if self._asked.is_set():
            kill_children()
            os._exit(128 + number)
        self.ask()

    def _on_input(self) -> None:
        if not os.read(sys.stdin.fileno(), 4096):
            asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
            self.ask()


@contextmanager
def stop_signals(*, on_eof: bool) -> Iterator[Stop]:
    """Turn SIGTERM and SIGINT, and with `on_eof` the end of standard input, into a `Stop`."""
    loop = asyncio.get_running_loop()
    stop = Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop._on_signal, number)
    if on_eof:
        try:
            loop.add_reader(sys.stdin.fileno(), stop._on_input)
        except PermissionError:  # a file or /dev/null, which cannot be waited for: it has ended
            stop.ask()
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        if on_eof:
            loop.remove_reader(sys.stdin.fileno())


def shield_children() -> None:
    """Keep SIGINT from the processes that this thread starts.

    Ctrl-C reaches every process of a terminal, and the engine must outlive the drain.
    """
    resource_tracker.ensure_running()  # lifts the block when it starts: not after it is set
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def kill_children() -> None:
    """Kill this process's children, the engine's among them, so that none is left behind."""
    for child in multiprocessing.active_children():
        child.kill()


def end_with_parent() -> None:
    """End this process, a child of multiprocessing's, when its parent does, however that ends."""
    if parent := multiprocessing.parent_process():

        def follow() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=follow, name="end-with-parent", daemon=True).start()


def leave_signals_to_parent() -> None:
    """Have whoever asks for a stop ask the parent alone, and this process go on until it says so.

    Ctrl-C reaches every process of a terminal, SIGTERM may reach every process of a unit.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def serve_quietly() -> None:
    """Have Ctrl-C, which reaches every process of a terminal, end the parent alone.

    Children are not waited for, and their signals are nobody else's.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)


class ProcessorTime:
    """Seconds of a processor for a block; the kernel ends the process that takes more.

    Its own, not the kernel's: a process that was just forked pays for pages that another used.
    Or, as one that waits for itself takes none, the process that is not through in many times that.

    Args:
        most: Seconds at first, and at most.
        more: Seconds that each block adds to what is left for the next.

    """

    def __init__(self, most: float, more: float = 0.0) -> None:
        self._most = self._left = most
        self._more = more

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_VIRTUAL, self._left)
        signal.setitimer(signal.ITIMER_REAL, 5 + 4 * self._left)

    def __exit__(self, *_: object) -> None:
        left, _interval = signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._left = min(self._most, left + self._more)
