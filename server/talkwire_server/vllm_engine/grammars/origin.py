"""The process from which those of the grammars are forked: it has ready what compiling takes.

It is forked itself, before there is a gRPC server, and so shares the server's memory. It reads
nothing that callers send.
"""

import gc
import logging
import os
from multiprocessing.connection import Connection
from pathlib import Path

from vllm.config import VllmConfig

from talkwire_server.signals import serve_quietly
from talkwire_server.vllm_engine.grammars.compiler import Compiler
from talkwire_server.vllm_engine.grammars.follower import Follower, Limits
from talkwire_server.vllm_engine.grammars.peer import ORIGIN, listening


def run(config: VllmConfig, folder: Path, limits: Limits, parent: int) -> None:
    """Fork a process for each line, as long as the parent lives."""
    serve_quietly()
    logging.disable()  # vLLM's messages quote callers
    with listening(folder / ORIGIN) as listener:
        listener.settimeout(1)
        compiler = Compiler(config)
        gc.freeze()  # else collecting would copy what is shared
        while os.getppid() == parent:
            try:
                line, _ = listener.accept()
            except TimeoutError:
                continue
            try:
                child = os.fork()
            except OSError:  # too many processes: whoever asks reads the end
                line.close()
                continue
            if child == 0:
                listener.close()
                try:
                    Follower(compiler, folder, limits).serve(Connection(line.detach()))
                finally:
                    os._exit(0)
            line.close()
