"""An answer whose first part the caller has: its text goes on exactly where that part ended.

vLLM continues the tokens, but would begin a new text: half a character, a stop word begun before
the break, held-back text, all would be lost. So its own detokenizer is fed the first part again,
and reads what comes after in vLLM's stead. Knows no rendering and no engine.
"""

import asyncio
from collections.abc import Iterator, Sequence
from time import monotonic

from vllm.outputs import RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike

from talkwire_server.engine import Delta
from talkwire_server.vllm_engine.reading import Reading
from talkwire_server.vllm_engine.tokens import detokenizer

_TURN = 0.002  # seconds


class Continued:
    """The text of one answer, from its first part on; `replay` comes before anything else.

    Args:
        tokenizer: The model's.
        prompt_token_ids: The prompt's, without the first part.
        sampling: Of the whole answer.
        token_ids: The first part.

    Attributes:
        token_ids: The first part.
        remaining: Sampling of what is left. Stop words are found here, not by vLLM.
        over: Why nothing is left to generate: vLLM's finish reason and stop reason. Known after
            `replay`.

    """

    def __init__(
        self,
        tokenizer: TokenizerLike,
        prompt_token_ids: list[int],
        sampling: SamplingParams,
        token_ids: Sequence[int],
    ) -> None:
        self.token_ids = token_ids
        self.over: tuple[str, str | int | None] | None = None
        self._detokenizer = detokenizer(tokenizer, prompt_token_ids, sampling)
        self.remaining = sampling.clone()
        self.remaining.stop = []
        self.remaining.output_text_buffer_length = 0
        self.remaining.min_tokens = max(0, sampling.min_tokens - len(token_ids))
        left = (sampling.max_tokens or 0) - len(token_ids)
        self.remaining.max_tokens = max(1, left)
        last = token_ids[-1]
        self._ended = not sampling.ignore_eos and last in sampling.all_stop_token_ids
        if self._ended:
            self.over = ("stop", None if last == tokenizer.eos_token_id else last)
        elif left <= 0:
            self.over = ("length", None)

    async def replay(self, readings: Sequence[Reading], turns: asyncio.Lock) -> None:
        """See the first part again, as it came, and let a parser see it.

        A long one takes seconds: all else goes on meanwhile, and those who replay take turns.
        """
        steps = self._replayed(readings)
        while True:
            async with turns:
                await asyncio.sleep(0)
                until = monotonic() + _TURN
                for _ in steps:
                    if monotonic() > until:
                        break
                else:
                    return

    def _replayed(self, readings: Sequence[Reading]) -> Iterator[None]:
        for i, token in enumerate(self.token_ids, 1):
            last = i == len(self.token_ids)
            stop = self._detokenizer.update([token], self._ended and last)
            text = self._detokenizer.get_next_output_text(stop is not None, True)
            for reading in readings:
                reading.read(Delta(), text, [token], finished=False)
            if stop is not None:
                self.over = ("stop", stop)
            yield

    def rest(self) -> str:
        """Return the text held back, when nothing is left to generate."""
        text: str = self._detokenizer.get_next_output_text(True, True)
        return text

    def rewrite(self, output: RequestOutput) -> None:
        """Give vLLM's output the text that belongs to its tokens; end it at a stop word."""
        (part,) = output.outputs
        before = len(self._detokenizer.output_token_ids)
        stop = self._detokenizer.update(list(part.token_ids), part.finish_reason == "stop")
        if stop is not None:
            part.finish_reason, part.stop_reason = "stop", stop
            output.finished = True
            part.token_ids = self._detokenizer.output_token_ids[before:]
            if part.logprobs is not None:
                part.logprobs = part.logprobs[: len(part.token_ids)]
        part.text = self._detokenizer.get_next_output_text(part.finish_reason is not None, True)
