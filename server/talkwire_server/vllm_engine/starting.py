"""How vLLM's engine processes start, and how often one looks after them. Knows no requests."""

import os

from vllm.config import VllmConfig
from vllm.platforms import current_platform

POLL = 0.25  # seconds


def choose_start(config: VllmConfig, *, may: bool) -> bool:
    """Choose how they start; return whether they will be forked.

    A process must not be forked beside a live gRPC server, so only the CPU's single engine process
    is, and only the first: forked, it need not import vLLM again, which takes ten seconds.
    """
    config.cache_config.num_gpu_blocks = None  # else vLLM adds to the last engine's
    fork = current_platform.is_cpu() and config.parallel_config.data_parallel_size == 1
    if fork:
        fork = may
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork" if fork else "spawn"
    return bool(fork)
