"""`talkwire serve`: settings in, a running server, an exit status out."""

import atexit
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import NoReturn

import uvloop

from talkwire_server import options
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Engine, StartError
from talkwire_server.lifetime import fail, serve
from talkwire_server.logs import start_logging
from talkwire_server.settings import Settings


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop."""
    started = monotonic()
    if "--help-engine" in argv:
        from talkwire_server.vllm_engine import config

        return config.print_help()
    if sys.stdin is None:  # else the event loop's own files would take descriptor 0
        sys.stdin = Path(os.devnull).open()  # noqa: SIM115
    settings = options.parse(argv, os.environ)
    start_logging(settings.log_level, texts=settings.log_texts)
    try:
        status = uvloop.run(serve(settings, _engine(settings), started))
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


def _engine(settings: Settings) -> Engine:
    if settings.engine == "echo":
        names = settings.served_model_name or ("echo",)
        return EchoEngine(names, settings.default_system, settings.echo_delay)
    from talkwire_server import vllm_engine

    return vllm_engine.load(settings)
