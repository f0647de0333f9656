"""What a model's chat template shows the model of a request. Renders nothing."""

import re
from collections.abc import Iterable, Iterator, Set

from vllm.config import ModelConfig
from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_kwargs
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tokenizers import TokenizerLike

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import forces_call
from talkwire_server.vllm_engine.request import may_call

_EFFORT = ("reasoning_effort", "enable_thinking")  # how vLLM tells a template of an effort


class Template:
    """The chat template that a renderer uses.

    Attributes:
        text: Jinja; empty for the formats that are code: gpt-oss' and Mistral's.
        shows_tools: Whether the model hears of tools.

    """

    def __init__(
        self, renderer: OnlineRenderer, tokenizer: TokenizerLike, config: ModelConfig
    ) -> None:
        self._tokenizer = tokenizer
        text: str | None = None
        if not renderer.use_harmony:
            text = resolve_chat_template(
                tokenizer, renderer.chat_template, None, model_config=config
            )
        self.text = text or ""
        self.shows_tools = not text or bool(re.search(r"\btools\b", text))

    def unused(self, request: pb.ChatRequest) -> Iterator[str]:
        """Name what the model would not hear of, or what has no use for it.

        What of the messages it shows is the template's to say: most leave old thoughts out.
        """
        if may_call(request) and not (self.shows_tools or forces_call(request)):
            yield "tools with tool_choice AUTO"
        if request.reasoning.effort and self.text and not self._used(_EFFORT):
            yield "reasoning.effort"
        names = request.template.kwargs.fields.keys()
        for name in sorted(names - self._used(names)):
            yield f"template.kwargs.{name}"
        if request.template.documents and "documents" not in self.text:
            yield "template.documents"

    def _used(self, names: Iterable[str]) -> Set[str]:
        if not (self.text and names):
            return set()
        used: dict[str, None] = resolve_chat_template_kwargs(
            self._tokenizer, self.text, dict.fromkeys(names), raise_on_unexpected=False
        )
        return used.keys()
