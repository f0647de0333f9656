"""The engine's pulse: for how long it has made no step. Knows no requests, no processes."""

from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase


class Pulse(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not read
    """Feels each step: vLLM logs its statistics after every one, of a part of a prompt, too.

    That is once a step, not once a token; and what is counted is the time in which this process
    ran, so that one that was stopped itself does not take its engine for dead.
    """

    def __init__(self) -> None:
        self.quiet = 0.0  # seconds
        self.steps = 0

    def __call__(self, *_config: object) -> "Pulse":
        """Be the logger of whatever engine there is: vLLM asks for a factory."""
        return self

    def record(self, *_stats: Any, **_more: Any) -> None:
        """Feel a step."""
        self.quiet = 0.0
        self.steps += 1

    def log_engine_initialized(self) -> None:
        """Need nothing at the start."""
