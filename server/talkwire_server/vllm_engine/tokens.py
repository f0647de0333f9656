"""An answer's tokens one by one, each with the text that it brought. Knows no meaning of either."""

from collections import deque
from collections.abc import Iterator, Sequence

from vllm.sampling_params import SamplingParams
from vllm.tokenizers import TokenizerLike
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.detokenizer import IncrementalDetokenizer


def detokenizer(
    tokenizer: TokenizerLike, prompt_token_ids: list[int], sampling: SamplingParams
) -> IncrementalDetokenizer:
    """Make vLLM's own, for tokens that do not come from it, or come again."""
    request = EngineCoreRequest(
        request_id="",
        prompt_token_ids=prompt_token_ids,
        mm_features=None,
        sampling_params=sampling,
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    return IncrementalDetokenizer.from_new_request(tokenizer, request)


class Tokens:
    """Cuts the pieces of an answer into its tokens, always in the same way.

    A piece is what the engine had when somebody looked: several tokens when nobody had looked for
    a while, less text than tokens when what may be a stop word is held back.

    Args:
        tokenizer: The model's.
        prompt_token_ids: What comes before the answer.
        sampling: Which of the tokens make text.

    """

    def __init__(
        self, tokenizer: TokenizerLike, prompt_token_ids: list[int], sampling: SamplingParams
    ) -> None:
        self._detokenizer = detokenizer(tokenizer, prompt_token_ids, sampling)
        self._text = ""  # received, and not yet given to a token
        self._waiting: deque[tuple[int, int]] = deque()  # tokens and the lengths of their texts

    def split(
        self, text: str, token_ids: Sequence[int], *, finished: bool
    ) -> Iterator[tuple[int, str]]:
        """Yield the tokens whose text is there; of an answer that is finished, all that are left.

        The last of these has all the text that is left: a stop word may have cut it short.
        """
        self._text += text
        for token in token_ids:
            self._detokenizer.update([token], False)
            brought = self._detokenizer.get_next_output_text(False, True)
            self._waiting.append((token, len(brought)))
        while self._waiting and (finished or self._waiting[0][1] <= len(self._text)):
            token, length = self._waiting.popleft()
            if finished and not self._waiting:
                length = len(self._text)
            yield token, self._text[:length]
            self._text = self._text[length:]
