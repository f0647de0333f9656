"""The log of processes that vLLM spawns: they know of this server what the environment says."""

import json
import logging
import os
from dataclasses import fields

from talkwire_server.logs import start_logging
from talkwire_server.settings.logs import LogSettings

_SETTINGS = "TALKWIRE_VLLM_LOG"


def tell(settings: LogSettings) -> None:
    """Have such processes log as this one does."""
    said = {one.name: getattr(settings, one.name) for one in fields(LogSettings)}
    os.environ[_SETTINGS] = json.dumps(said)


def start() -> None:
    """Be one of vLLM's general plugins, which all of its processes load; do nothing in others'."""
    if _SETTINGS in os.environ and not logging.root.handlers:
        settings = LogSettings(**json.loads(os.environ[_SETTINGS]))
        start_logging(settings)
        level = logging.NOTSET if settings.log_level == "debug" else logging.WARNING
        logging.getLogger("vllm").setLevel(level)
