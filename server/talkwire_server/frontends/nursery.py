"""Where frontends are forked from: a process that imported all they need, and has no thread.

Importing vLLM takes ten seconds, forking a hundredth of one; and no process may be forked beside a
live event loop. It is multiprocessing's own `forkserver`.
"""

import asyncio
import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import Future
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from typing import Any

from talkwire_server.signals import shield_children

_CONTEXT = multiprocessing.get_context("forkserver")


def begin(*modules: str) -> None:
    """Start that process; it imports modules meanwhile. The environment is its own from here on."""
    _CONTEXT.set_forkserver_preload(["talkwire_server.frontends.frontend", *modules])
    thread = threading.Thread(target=_begin)
    thread.start()
    thread.join()


def _begin() -> None:
    shield_children()  # in a thread: the supervisor itself hears Ctrl-C
    forkserver.ensure_running()


async def fork(name: str, run: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Have a function run in a process that is forked there, once all is imported."""
    process, forked = _CONTEXT.Process(target=run, args=arguments, name=name), Future[None]()
    forked.set_running_or_notify_cancel()  # whoever waits may be cancelled, not this

    def start() -> None:
        try:
            process.start()
        except Exception as error:
            forked.set_exception(error)
        else:
            forked.set_result(None)

    threading.Thread(target=start, daemon=True).start()  # nobody waits for it at the end
    await asyncio.wrap_future(forked)
    return process
