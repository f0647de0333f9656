"""What an answer's tokens mean: text, thoughts, calls. vLLM's parsers read; knows no way to choose.

Where those misread a model's format, here is what is done about it.
"""

from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.sampling_params import SamplingParams

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.vllm_engine.tokens import Tokens

# Tool parsers whose streaming is broken in vLLM, so that they read an answer only once it is whole.
WHOLE = {
    "FunctionGemmaToolParser",  # closes the arguments after the first of them
    "HunyuanA13BToolParser",  # misses calls that follow text, and nested arguments
    "JambaToolParser",  # garbles nested arguments
    "MiniCPM5XMLToolParser",  # sends the markup as text, too
    "Olmo3PythonicToolParser",  # sends the markup as text
    "Phi4MiniJsonToolParser",  # sends nothing
    "xLAMToolParser",  # loses nested arguments
}

# And those whose streaming misses calls that follow text, or empty arguments: what they find in
# the whole is sent at the end.
AGAIN = {
    "Granite20bFCToolParser",
    "Internlm2ToolParser",
    "Llama3JsonToolParser",
    "Step3ToolParser",
}

# And one that must not be told of the end, because no token comes with it.
ENDLESS = {"HunyuanA13BReasoningParser"}


class Reading:
    """Reads one answer: adds what its tokens mean to deltas.

    vLLM's parsers see the answer token by token, however it is cut into pieces: several of them
    mistake what comes at once. So a stream and a unary answer say the same, to the byte. (Where
    the two differ in vLLM, in white space beside calls or when the answer is cut off amid a call,
    both are here what its stream is.)

    Args:
        parser: vLLM's, for this answer alone.
        request: vLLM's, rendered; with its `include_reasoning`, since without it vLLM would hold
            thoughts to the grammar of the text.
        prompt_token_ids: Of the prompt, which may end amid a thought.
        exclude_reasoning: Keep the thoughts to ourselves.

    """

    def __init__(
        self,
        parser: Parser,
        request: ChatCompletionRequest,
        prompt_token_ids: Sequence[int],
        *,
        exclude_reasoning: bool,
    ) -> None:
        self._parser = parser
        self._request = request
        self._prompt_token_ids = list(prompt_token_ids)
        self._exclude_reasoning = exclude_reasoning
        reader = type(parser.tool_parser).__name__
        self._whole = reader in WHOLE and request.tool_choice == "auto"
        self._again = reader in AGAIN and request.tool_choice != "none"
        self._endless = type(parser.reasoning_parser).__name__ in ENDLESS
        self._named: set[int] = set()  # calls whose name is sent
        self._argued: set[int] = set()  # calls of whose arguments some are
        self._said: list[str] = []
        self._thought: list[str] = []
        self._texts: list[str] = []
        self._token_ids: list[int] = []
        sampling = SamplingParams(
            skip_special_tokens=request.skip_special_tokens,
            spaces_between_special_tokens=request.spaces_between_special_tokens,
        )
        self._tokens = Tokens(parser.model_tokenizer, self._prompt_token_ids, sampling)

    @property
    def called(self) -> bool:
        """Whether the answer calls a tool.

        If it does, "stop" means that it called, also where the choice was a named function: vLLM's
        HTTP server says "stop" there.
        """
        return bool(self._named)

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens read so far are thoughts.

        As in vLLM's streams the newer of its parsers count a character that takes several tokens
        as one.
        """
        tokens: int = self._parser.count_reasoning_tokens(tuple(self._token_ids))
        return tokens

    def read(
        self,
        delta: pb.ChatStreamResponse,
        text: str,
        token_ids: Sequence[int],
        *,
        finished: bool,
    ) -> None:
        """Add the meaning of the next piece to a delta. A whole answer is one finished piece.

        Takes 10 us a token, more as the answer grows: give a long one in several pieces.
        """
        self._texts.append(text)
        self._token_ids += token_ids
        if not self._whole:
            for token, part in self._tokens.split(text, token_ids, finished=finished):
                self._parse(delta, part, [token], finished=False)
        if finished:
            self._finish(delta)
        delta.text += "".join(self._said)  # once: a delta's text is copied by each addition
        if not self._exclude_reasoning:
            delta.reasoning += "".join(self._thought)
        self._said.clear()
        self._thought.clear()

    def _parse(
        self, delta: pb.ChatStreamResponse, text: str, token_ids: list[int], *, finished: bool
    ) -> None:
        found = self._parser.parse_delta(
            text, token_ids, self._request, self._prompt_token_ids, finished=finished
        )
        if found is None:
            return
        self._said.append(found.content or "")
        self._thought.append(found.reasoning or "")
        for call in found.tool_calls or ():
            self._add_call(delta, call.index, call.id, call.function)

    def _finish(self, delta: pb.ChatStreamResponse) -> None:
        """Say what is left; nothing more comes."""
        if not (self._whole or self._endless):
            self._parse(delta, "", [], finished=True)
        if not (self._whole or self._again):
            return
        self._parser.set_prompt_token_ids(self._prompt_token_ids)
        thought, text, calls = self._parser.parse(
            "".join(self._texts), self._request, True, tuple(self._token_ids)
        )
        if self._whole:
            self._said.append(text or "")
            self._thought.append(thought or "")
        for i, call in enumerate(calls or ()):
            if i not in self._argued:
                self._add_call(delta, i, call.id, call)

    def _add_call(
        self, delta: pb.ChatStreamResponse, index: int, id: str | None, function: Any
    ) -> None:
        request = self._request
        if request.tool_choice == "none" or (index and request.parallel_tool_calls is False):
            return
        arguments = (function and function.arguments) or ""
        if arguments:
            self._argued.add(index)
        if index not in self._named and function and function.name:
            self._named.add(index)
            delta.tool_calls.add(
                index=index, id=id or make_tool_call_id(), name=function.name, arguments=arguments
            )
        elif delta.tool_calls and delta.tool_calls[-1].index == index:
            delta.tool_calls[-1].arguments += arguments
        elif arguments:
            delta.tool_calls.add(index=index, arguments=arguments)
