"""From an admitted call to the prompt that the model sees, by vLLM's own renderer."""

import asyncio
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from vllm.config import ModelConfig, VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.inputs import EngineInput
from vllm.renderers.base import BaseRenderer
from vllm.renderers.params import TokenizeParams

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call, Prompt
from talkwire_server.errors import ContextLengthExceeded, MediaUnreadable
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings
from talkwire_server.texts import characters
from talkwire_server.vllm_engine.control_tokens import control_tokens
from talkwire_server.vllm_engine.failures import invalid, rendering
from talkwire_server.vllm_engine.parsers import make_renderer
from talkwire_server.vllm_engine.plain import Plain, is_plain, plain
from talkwire_server.vllm_engine.request import vllm_request
from talkwire_server.vllm_engine.short import is_short
from talkwire_server.vllm_engine.template import Template

_LONG = 100_000  # characters; others do not wait for what is done with more


class Request(ChatCompletionRequest):  # type: ignore[misc]  # vLLM's types are not read
    """vLLM's request, without its check of the length: ours names the prompt's true length."""

    def build_tok_params(self, model_config: ModelConfig) -> TokenizeParams:
        """Check and cut as vLLM does, but for the length."""
        params = super().build_tok_params(model_config)
        return replace(params, max_total_tokens=None, max_output_tokens=0)


class Rendered(NamedTuple):
    """What became of a call.

    Attributes:
        asked: Its request, with all media in it and no text that makes control tokens.
        request: The same as vLLM spells it.
        prompt: Tokenized, media processed.

    """

    asked: pb.ChatRequest
    request: Request
    prompt: EngineInput


class Prompts:
    """Makes prompts for one model.

    Attributes:
        renderer: vLLM's, with the parsers that belong to the model.
        template: The model's.
        tokenizer: The model's.

    Args:
        config: The engine's.
        renderer: The engine's.
        chat_template: Jinja text in place of the model's template.
        settings: The server's.
        media: Where images, sound and film come from.

    """

    def __init__(
        self,
        config: VllmConfig,
        renderer: BaseRenderer,
        chat_template: str | None,
        settings: Settings,
        media: MediaStore,
    ) -> None:
        self._config: ModelConfig = config.model_config
        self._default_tokens = self._config.get_diff_sampling_param().get("max_tokens")
        self._default_system = settings.default_system
        self._media = media
        self.tokenizer = renderer.get_tokenizer()
        self.renderer = make_renderer(config, renderer, chat_template, settings)
        self.template = Template(self.renderer, self.tokenizer, self._config)
        self._control_tokens = control_tokens(
            settings, self._config, self.tokenizer, self.template.text
        )
        self._plain: Plain[Request] | None = None

    @property
    def constrains_calls(self) -> bool:
        """Whether calls that the model may make can be held to their tools' schemas."""
        parser = self.renderer.parser.tool_parser_cls
        return parser is not None and parser.structural_tag_model is not None

    async def warmup(self) -> None:
        """Render once, so that the first request need not wait for Jinja."""
        self.renderer.warmup()
        self._plain = await plain(self.renderer, self.template.text, self._config, Request)

    async def prompt(self, call: Call) -> Prompt:
        """Make what the model sees of a call. Raises as `render` does."""
        prompt = (await self.render(call)).prompt
        ids, text = prompt["prompt_token_ids"], prompt.get("prompt")
        if not text or call.request.template.truncate_prompt_tokens:
            text = self.tokenizer.decode(ids)
        return Prompt(text, ids)

    async def render(self, call: Call) -> Rendered:
        """Fetch media, render, tokenize.

        Raises:
            InvalidRequest: The template or a medium is refused.
            ContextLengthExceeded: The prompt leaves no room for an answer.

        """
        length = self._check_length(call.request)
        asked = await self._media.resolve(call.request)
        if self._control_tokens:
            breaking = partial(self._control_tokens.broken, asked)
            asked = await asyncio.to_thread(breaking) if length > _LONG else breaking()
        with rendering(asked):
            made = self._request(call, asked)
            fits = made["max_completion_tokens"] <= self._config.max_model_len  # else vLLM refuses
            short = fits and is_short(made["messages"]) and is_plain(asked, made["messages"])
            plain = self._plain if short else None
            rendered = (plain and _by(plain, asked, made)) or await self._by_vllm(asked, made)
        tokens, limit = len(rendered.prompt["prompt_token_ids"]), self._config.max_model_len
        if tokens >= limit:
            raise ContextLengthExceeded(tokens, limit)
        return rendered

    async def _by_vllm(self, asked: pb.ChatRequest, made: dict[str, Any]) -> Rendered:
        request = Request(**made)
        try:
            rendered = await self.renderer.render_chat(request)
        except (ValueError, SyntaxError):  # PIL's word for a broken PNG
            if faults := await self._media.explain(asked):
                raise MediaUnreadable(faults) from None
            raise
        if not isinstance(rendered, tuple):  # vLLM returns some of its refusals
            raise invalid("request", rendered.error.message)
        _, (prompt,) = rendered
        return Rendered(asked, request, prompt)

    def _check_length(self, asked: pb.ChatRequest) -> int:
        """Refuse what no tokenizer could make fit, before it takes its time; count characters."""
        length = characters(asked)
        least = length // self.tokenizer.max_chars_per_token
        if least >= self._config.max_model_len:
            raise ContextLengthExceeded(least, self._config.max_model_len)
        return length

    def _request(self, call: Call, asked: pb.ChatRequest) -> dict[str, Any]:
        limit = self._config.max_model_len
        made = {
            "request_id": call.id,
            "max_completion_tokens": self._default_tokens or limit,
            **vllm_request(asked, self._default_system),
        }
        if made.get("truncate_prompt_tokens") == -1:  # vLLM's would leave one token of room
            made["truncate_prompt_tokens"] = max(1, limit - max(1, asked.sampling.max_tokens))
        return made


def _by(plain: Plain[Request], asked: pb.ChatRequest, made: dict[str, Any]) -> Rendered | None:
    try:
        return Rendered(asked, plain.request(made), plain.prompt(made["messages"]))
    except Exception:  # of a template: vLLM knows how to say it
        return None
