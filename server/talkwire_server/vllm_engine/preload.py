"""All that a frontend's engine imports, for the process that frontends are forked from."""

import logging

logging.getLogger("vllm").setLevel(logging.ERROR)  # each frontend sets it as its settings say

from talkwire_server.vllm_engine import engine, parsers  # noqa: E402, F401
