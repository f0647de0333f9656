"""`talkwire serve`: settings in, a running server, an exit status out."""

import atexit
import os
import sys
from collections.abc import Coroutine, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, NoReturn

import uvloop

from talkwire_server import echo, options
from talkwire_server.engine import Core, Engine, StartError
from talkwire_server.frontends import Supervisor
from talkwire_server.lifetime import fail, serve
from talkwire_server.logs import start_logging
from talkwire_server.server import Server
from talkwire_server.settings import Settings
from talkwire_server.telemetry import prepare_metrics


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop."""
    started = monotonic()
    if "--help-engine" in argv:
        from talkwire_server.vllm_engine import config

        return config.print_help()
    if sys.stdin is None:  # else the event loop's own files would take descriptor 0
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    settings = options.parse(argv, os.environ)
    start_logging(settings)
    try:
        status = uvloop.run(_serving(settings, started))
        if settings.engine == "vllm":
            _exit(status)
        return status
    except StartError as error:
        fail(settings, str(error))
        return 1
    except KeyboardInterrupt:
        return 130


def _exit(status: int) -> NoReturn:
    """End without taking vLLM apart object by object, which takes the interpreter seconds."""
    atexit._run_exitfuncs()
    os._exit(status)


def _serving(settings: Settings, started: float) -> Coroutine[Any, Any, int]:
    """Import what is needed, before there is an event loop."""
    prepare_metrics(settings)
    if settings.frontends > 1:
        core = _core(settings)
        return serve(settings, core, partial(Supervisor, settings, core), started)
    engine = _engine(settings)
    return serve(settings, engine, partial(Server, settings, engine), started)


def _engine(settings: Settings) -> Engine:
    if settings.engine == "echo":
        return echo.load(settings)
    from talkwire_server import vllm_engine

    return vllm_engine.load(settings)


def _core(settings: Settings) -> Core:
    if settings.engine == "echo":
        return echo.core(settings)
    from talkwire_server import vllm_engine

    return vllm_engine.core(settings)
