"""How vLLM's engine processes start, and how often one looks after them. Knows no requests."""

import os
from collections.abc import Sequence

from vllm.config import VllmConfig
from vllm.platforms import current_platform

POLL = 0.25  # seconds


def gpus(config: VllmConfig) -> Sequence[int] | None:
    """Return those that the operator chose: to be asked before the first start."""
    chosen: Sequence[int] | None = config.parallel_config.assigned_physical_gpu_ids
    return chosen


def choose_start(config: VllmConfig, chosen: Sequence[int] | None, *, may: bool) -> bool:
    """Choose how they start, on which GPUs, if that was `chosen`; return whether by forking.

    A process must not be forked beside a live gRPC server, so only the CPU's single engine process
    is, and only the first: forked, it need not import vLLM again, which takes ten seconds. Nor
    beside a gRPC channel, which vLLM opens for its spans before.
    """
    config.cache_config.num_gpu_blocks = None  # else vLLM adds to the last engine's
    config.parallel_config.assigned_physical_gpu_ids = chosen  # else takes the last engine's
    fork = current_platform.is_cpu() and config.parallel_config.data_parallel_size == 1
    if fork:
        fork = may and config.observability_config.otlp_traces_endpoint is None
        os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork" if fork else "spawn"
    return bool(fork)
