"""All that a frontend's engine imports, for the process that frontends are forked from."""

import gc

from talkwire_server.vllm_engine import quiet

quiet("info")

from talkwire_server.vllm_engine import engine, parsers  # noqa: E402, F401  # quietly

gc.freeze()  # else collecting would copy what they share
