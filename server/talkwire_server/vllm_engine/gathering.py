"""How many tokens of an answer vLLM gathers before it tells of them: one, unless there are many.

A token that comes alone costs the event loop more than what vLLM does for it: an output, a waking,
a message. So the faster tokens come, the more of an answer's go together. All answers tell in the
same steps, so that those on one connection share messages. This is vLLM's `stream_interval`, which
a request may only fix as it begins: set here as the answer goes on. Knows `RequestState`, where
vLLM keeps it.
"""

from collections.abc import Callable, Sequence
from math import ceil
from time import monotonic
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from vllm.outputs import RequestOutput
from vllm.v1.engine.output_processor import RequestState
from vllm.v1.metrics.stats import IterationStats

from talkwire_server.engine import Delta
from talkwire_server.vllm_engine.step_logger import StepLogger

Take: TypeAlias = Callable[[RequestOutput], Sequence[Delta]]

# Tokens a second of a process, unary answers' too, that may come one by one:
SHARED: Final = 5000  # in messages that many answers share
APART: Final = 2500  # in messages of their own, which cost more
MOST: Final = 8  # tokens of an answer that go together
FINE: Final = 4 * MOST  # characters, about, that are no more than they
_WINDOW: Final = 0.1  # seconds


class Gathering(StepLogger):
    """Counts the tokens of this process's answers, step by step."""

    def __init__(self) -> None:
        self._most = WeakKeyDictionary[RequestState, Callable[[], int]]()  # that may go together
        self._rate = 0.0  # tokens a second
        self._steps = 0
        self._tokens = 0
        self._since = monotonic()

    def record(self, _scheduler: Any, stats: IterationStats | None, *_more: Any, **_: Any) -> None:
        """Count a step's; once in a while have answers follow that would wait too long."""
        self._steps += 1
        self._tokens += stats.num_generation_tokens if stats else 0
        now = monotonic()
        if (seconds := now - self._since) > _WINDOW:
            self._rate = self._tokens / seconds
            self._tokens, self._since = 0, now
            for state, most in self._most.items():
                _set(state, min(state.stream_interval, most()))

    def of(self, state: RequestState | None, take: Take, alone: int) -> Take:
        """Make what takes a request's outputs have them gathered as soon as it told of one.

        Several answers to one request have no state of their own, and stay as they are.

        Args:
            state: vLLM's of the request.
            take: What takes its outputs.
            alone: Tokens a second that may come one by one.

        """
        if state is None or not hasattr(state, "sent_tokens_offset"):  # vLLM's may change
            return take
        least: int = state.stream_interval  # the operator's

        def most() -> int:
            return max(least, min(MOST, ceil(self._rate / alone)))

        def taken(output: RequestOutput) -> Sequence[Delta]:
            if deltas := take(output):
                together = most()
                _set(state, max(least, together - self._steps % together))
            return deltas

        self._most[state] = most
        return taken


def _set(state: RequestState, interval: int) -> None:
    if interval == state.stream_interval:
        return
    told = state.detokenizer.num_output_tokens()
    if state.stream_interval == 1:  # vLLM tells of each, and keeps no count
        state.sent_tokens_offset = told
    elif interval == 1 and state.sent_tokens_offset < told:
        interval = 2  # at 1 it would forget those that wait
    state.stream_interval = interval
