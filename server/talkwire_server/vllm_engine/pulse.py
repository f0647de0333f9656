"""The engine's pulse: for how long it has made no step. Knows no requests, no processes."""

from typing import Any

from talkwire_server.vllm_engine.step_logger import StepLogger


class Pulse(StepLogger):
    """Feels each step.

    What is counted is the time in which this process ran, so that one that was stopped itself does
    not take its engine for dead.
    """

    def __init__(self) -> None:
        self.quiet = 0.0  # seconds
        self.steps = 0

    def record(self, *_stats: Any, **_more: Any) -> None:
        """Feel a step."""
        self.quiet = 0.0
        self.steps += 1
