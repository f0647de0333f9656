"""How many tokens of an answer vLLM gathers before it tells of them: one, unless there are many.

A token that comes alone costs the event loop more than what vLLM does for it: an output, a waking,
a message. So the faster tokens come, the more of an answer's go together, and an answer's first
always goes alone. This is vLLM's `stream_interval`, which a request may only fix as it begins: set
here as the answer goes on. Knows `RequestState`, where vLLM keeps it.
"""

from collections.abc import Callable, Sequence
from time import monotonic
from typing import Final, TypeAlias

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.output_processor import RequestState

from talkwire_server.engine import Delta

Take: TypeAlias = Callable[[RequestOutput], Sequence[Delta]]

MESSAGES: Final = 5000  # a second of one event loop, about: as many tokens and more go alone
MOST: Final = 8  # tokens
_WINDOW: Final = 0.1  # seconds


class Gathering:
    """The tokens of all answers of one event loop."""

    def __init__(self, states: dict[str, RequestState]) -> None:
        self._states = states
        self._interval = 1
        self._tokens = 0
        self._since = monotonic()

    def count(self, tokens: int) -> int:
        """Count tokens that came; return how many of an answer's shall come together."""
        self._tokens += tokens
        if (seconds := monotonic() - self._since) > _WINDOW:
            self._interval = min(MOST, max(1, round(self._tokens / seconds / MESSAGES)))
            self._tokens, self._since = 0, monotonic()
        return self._interval

    def of(self, request_id: str, take: Take) -> Take:
        """Make what takes the outputs of vLLM's request `request_id` take them gathered.

        Several answers to one request stay as they are, and so does one that comes whole.
        """
        state = self._states.get(request_id)
        if state is None or state.output_kind == RequestOutputKind.FINAL_ONLY:
            return take
        least = state.stream_interval  # the operator's

        def taken(output: RequestOutput) -> Sequence[Delta]:
            interval = max(least, self.count(len(output.outputs[0].token_ids)))
            if interval != state.stream_interval:
                _set(state, interval)
            return take(output)

        return taken


def _set(state: RequestState, interval: int) -> None:
    if state.stream_interval == 1:  # then vLLM does not keep count of what it told
        assert state.detokenizer
        state.sent_tokens_offset = state.detokenizer.num_output_tokens()
    state.stream_interval = max(2, interval)  # at 1 it would forget those that wait
