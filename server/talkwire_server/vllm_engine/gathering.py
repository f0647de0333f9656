"""How many tokens of an answer vLLM gathers before it tells of them: one, unless there are many.

A token that comes alone costs the event loop more than what vLLM does for it: an output, a waking,
a message. So the faster tokens come, the more of an answer's go together. All answers tell in the
same steps, so that those on one connection share messages; where a step makes several tokens of one
(speculation), they do so less. This is vLLM's `stream_interval`, which a request may only fix as it
begins: set here as the answer goes on. Knows `RequestState`, where vLLM keeps it.
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
FINE: Final = 4 * MOST  # characters: fewer are less than so many tokens
_WINDOW: Final = 0.1  # seconds


class Gathering(StepLogger):
    """Counts the tokens of this process's answers, step by step."""

    def __init__(self) -> None:
        self._wanted = WeakKeyDictionary[RequestState, Callable[[], int]]()  # intervals
        self._rate = 0.0  # tokens a second
        self._steps = 0
        self._engines = 1  # that make steps
        self._since = monotonic()
        self._tokens = 0
        self._stepped = set[int]()

    def record(
        self,
        _scheduler: Any,
        stats: IterationStats | None,
        *_more: Any,
        engine_idx: int = 0,
        **_: Any,
    ) -> None:
        """Count a step's; once in a while have answers follow that would wait too long."""
        self._steps += 1
        self._stepped.add(engine_idx)
        self._tokens += stats.num_generation_tokens if stats else 0
        now = monotonic()
        if (seconds := now - self._since) > _WINDOW:
            self._rate, self._engines = self._tokens / seconds, len(self._stepped)
            self._since, self._tokens, self._stepped = now, 0, set()
            for state, wanted in self._wanted.items():
                _set(state, min(state.stream_interval, wanted()))

    def of(self, state: RequestState | None, take: Take, singly: int) -> Take:
        """Make what takes a request's outputs have them gathered as soon as it told of one.

        Several answers to one request have no state of their own, and stay as they are.

        Args:
            state: vLLM's of the request.
            take: What takes its outputs.
            singly: Tokens a second that may come one by one.

        """
        if state is None or not hasattr(state, "sent_tokens_offset"):  # vLLM's may change
            return take
        least: int = state.stream_interval  # the operator's
        told = False

        def wanted() -> int:
            return max(least, min(MOST, ceil(self._rate / singly)))

        def taken(output: RequestOutput) -> Sequence[Delta]:
            nonlocal told
            deltas = take(output)
            if told := told or bool(deltas):
                interval = wanted()
                _set(state, max(least, interval - self._steps // self._engines % interval))
            return deltas

        self._wanted[state] = wanted
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
