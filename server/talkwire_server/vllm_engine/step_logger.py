"""What hears of each step that vLLM made for this process."""

from typing import Self

from vllm.v1.metrics.loggers import StatLoggerBase


class StepLogger(StatLoggerBase):  # type: ignore[misc]  # vLLM's types are not read
    """One for all engines: vLLM logs its statistics to `record` after every step of any.

    That is once a step, not once a token, and also after one of a part of a prompt.
    """

    def __call__(self, *_config: object) -> Self:
        """Be the logger of whatever engine there is: vLLM asks for a factory."""
        return self

    def log_engine_initialized(self) -> None:
        """Need nothing at the start."""
