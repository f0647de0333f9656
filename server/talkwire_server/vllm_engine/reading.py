"""What an answer's tokens mean: text, thoughts, calls. vLLM's parsers read; knows none of them."""

import logging
from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.abstract_parser import Parser
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.sampling_params import SamplingParams

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.vllm_engine.misreadings import way
from talkwire_server.vllm_engine.tokens import Tokens

log = logging.getLogger("talkwire")


class Reading:
    """Reads one answer: adds what its tokens mean to deltas.

    vLLM's parsers see the answer token by token, however it is cut into pieces: several of them
    mistake what comes at once. So a stream and a unary answer say the same, to the byte. (Where
    the two differ in vLLM, in white space beside calls or when the answer is cut off amid a call,
    both are here what its stream is.)

    Where a parser fails at what the model wrote the answer goes on: what is told stays, and what
    is left is text. vLLM's HTTP server would end the request there.

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
        self._way = way(parser, request)
        self._failed = False
        self._numbers: dict[int, int] = {}  # of the calls whose name is known, by the parser's
        self._argued: set[int] = set()  # the parser's numbers of calls with arguments
        self._said: list[str] = []
        self._thought: list[str] = []
        self._thoughts = 0  # tokens that brought some
        self._texts: list[str] = []
        self._told = 0  # texts up to the last of which something was told
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
        return bool(self._numbers)

    @property
    def reasoning_tokens(self) -> int:
        """How many of the tokens read so far are thoughts.

        As in vLLM's streams the newer of its parsers count a character that takes several tokens
        as one. Several count none where the prompt opens the thought: then we do.
        """
        tokens: int = self._parser.count_reasoning_tokens(tuple(self._token_ids))
        return max(tokens, self._thoughts)

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
        self._token_ids += token_ids
        for token, part in self._tokens.split(text, token_ids, finished=finished):
            self._texts.append(part)
            self._parse(delta, part, [token], finished=False)
        if finished:
            self._finish(delta)
        if self._failed:
            self._said += self._texts[self._told :]
            self._told = len(self._texts)
        delta.text += "".join(self._said)  # once: a delta's text is copied by each addition
        if not self._exclude_reasoning:
            delta.reasoning += "".join(self._thought)
        self._said.clear()
        self._thought.clear()

    def _parse(
        self, delta: pb.ChatStreamResponse, text: str, token_ids: list[int], *, finished: bool
    ) -> None:
        if self._way.whole or self._failed:
            return
        try:
            found = self._parser.parse_delta(
                text, token_ids, self._request, self._prompt_token_ids, finished=finished
            )
        except Exception:  # whatever the model's text makes it
            self._fail()
            return
        if found is None:
            return
        if found.content or found.reasoning:
            self._told = len(self._texts)
        self._said.append(found.content or "")
        self._thought.append(found.reasoning or "")
        self._thoughts += bool(found.reasoning and token_ids)
        for call in found.tool_calls or ():
            self._add_call(delta, call.index, call.id, call.function)

    def _finish(self, delta: pb.ChatStreamResponse) -> None:
        """Say what is left; nothing more comes."""
        if not self._way.endless:
            self._parse(delta, "", [], finished=True)
        if self._failed or not (self._way.whole or self._way.again):
            return
        self._parser.set_prompt_token_ids(self._prompt_token_ids)
        try:
            thought, text, calls = self._parser.parse(
                "".join(self._texts), self._request, True, tuple(self._token_ids)
            )
        except Exception:  # as above
            self._fail()
            return
        if self._way.whole:
            self._said.append(text or "")
            self._thought.append(thought or "")
        for i, call in enumerate(calls or ()):
            if i not in self._argued:
                self._add_call(delta, i, call.id, call)

    def _fail(self) -> None:
        self._failed = True
        request_id = self._request.request_id
        log.exception("request %s: vLLM cannot read its answer; what is left is text", request_id)

    def _add_call(
        self, delta: pb.ChatStreamResponse, index: int, id: str | None, function: Any
    ) -> None:
        """Tell a piece of a call; the arguments of one without a name are text."""
        name = (function and function.name) or ""
        arguments = (function and function.arguments) or ""
        if name or arguments:
            self._told = len(self._texts)
        if self._request.tool_choice == "none":
            return
        begins = bool(name) and index not in self._numbers
        if begins:
            self._numbers[index] = len(self._numbers)
        if index not in self._numbers:
            self._said.append(arguments)
            return
        number = self._numbers[index]
        if number and self._request.parallel_tool_calls is False:
            return
        if arguments:
            self._argued.add(index)
        if begins:
            delta.tool_calls.add(
                index=number, id=id or make_tool_call_id(), name=name, arguments=arguments
            )
        elif delta.tool_calls and delta.tool_calls[-1].index == number:
            delta.tool_calls[-1].arguments += arguments
        elif arguments:
            delta.tool_calls.add(index=number, arguments=arguments)
