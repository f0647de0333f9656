"""From a ChatRequest to what vLLM generates from: its request, rendered and tokenized."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.inputs import EngineInput
from vllm.renderers.base import BaseRenderer
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.renderers.params import TokenizeParams
from vllm.sampling_params import SamplingParams

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import Support
from talkwire_server.conversation import ROLE_NAMES, conversation
from talkwire_server.engine import Call
from talkwire_server.errors import ContextLengthExceeded
from talkwire_server.vllm_engine.failures import invalid, rendering

# What of a request is honoured, and so what a new field of the contract is not until it is here.
SUPPORTED: Support = {
    "query": {},
    "messages": {"role": {}, "text": {}, "name": {}},
    "system": {},
    "model": {},
    "sampling": {field.name: {} for field in pb.Sampling.DESCRIPTOR.fields},
    "template": {"kwargs": None, "continue_final_message": {}},
    "cache_salt": {},
    "request_id": {},
}

# Names of `Sampling` that vLLM's request spells differently.
_SPELLED = {
    "max_tokens": "max_completion_tokens",
    "include_stop": "include_stop_str_in_output",
}


class Prompts:
    """Makes prompts for one model, with vLLM's own renderer.

    Args:
        config: The model's.
        renderer: The engine's.
        chat_template: Jinja text in place of the model's template.
        default_system: System prompt of requests that bring none.

    """

    def __init__(
        self,
        config: ModelConfig,
        renderer: BaseRenderer,
        chat_template: str | None,
        default_system: str,
    ) -> None:
        self._config = config
        self._defaults = config.get_diff_sampling_param()
        self._default_system = default_system
        self._renderer = OnlineRenderer(
            config,
            renderer,
            request_logger=None,
            chat_template=chat_template,
            chat_template_content_format="auto",
        )

    def warmup(self) -> None:
        """Render once, so that the first request need not wait for Jinja."""
        self._renderer.warmup()

    async def render(self, call: Call) -> tuple[EngineInput, SamplingParams]:
        """Make the input and the sampling parameters of a call.

        Raises:
            InvalidRequest: The template or vLLM refuses the request.
            ContextLengthExceeded: The prompt leaves no room for an answer.

        """
        with rendering():
            request = _Request(**self._request(call))
            rendered = await self._renderer.render_chat(request)
            if not isinstance(rendered, tuple):  # vLLM returns some of its refusals
                raise invalid("request", rendered.error.message)
            _, (prompt,) = rendered
            tokens, limit = len(prompt["prompt_token_ids"]), self._config.max_model_len
            if tokens >= limit:
                raise ContextLengthExceeded(tokens, limit)
            max_tokens = get_max_tokens(limit, request.max_completion_tokens, tokens, {})
            return prompt, request.to_sampling_params(max_tokens, self._defaults)

    def _request(self, call: Call) -> dict[str, Any]:
        request = call.request
        messages = [
            {"role": ROLE_NAMES[m.role], "content": m.text} | ({"name": m.name} if m.name else {})
            for m in conversation(request, self._default_system)
        ]
        made: dict[str, Any] = {
            "messages": messages,
            "request_id": call.id,
            "stream": not call.final_only,
            "max_completion_tokens": self._defaults.get("max_tokens", self._config.max_model_len),
            **_sampling(request.sampling),
        }
        if request.template.HasField("kwargs"):
            made["chat_template_kwargs"] = _plain(request.template.kwargs)
        if request.template.continue_final_message:
            made |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.cache_salt:
            made["cache_salt"] = request.cache_salt
        return made


class _Request(ChatCompletionRequest):  # type: ignore[misc]  # vLLM's types are not read
    """vLLM's request, without its check of the length: ours names the prompt's true length."""

    def build_tok_params(self, model_config: ModelConfig) -> TokenizeParams:
        params = super().build_tok_params(model_config)
        return replace(params, max_total_tokens=None, max_output_tokens=0)


def default_sampling(config: ModelConfig) -> pb.Sampling:
    """Say what unset fields of `Sampling` mean for a model."""
    known = pb.Sampling.DESCRIPTOR.fields_by_name
    defaults: Mapping[str, Any] = config.get_diff_sampling_param()
    return pb.Sampling(**{name: value for name, value in defaults.items() if name in known})


def _sampling(sampling: pb.Sampling) -> dict[str, Any]:
    made = {}
    for field, value in sampling.ListFields():
        if field.name == "logit_bias":
            value = {str(token): bias for token, bias in value.items()}
        elif not isinstance(value, (bool, int, float)):
            value = list(value)
        made[_SPELLED.get(field.name, field.name)] = value
    return made


def _plain(struct: Message) -> dict[str, Any]:
    """Python's own types of a Struct, in which every number is a double."""
    plain: dict[str, Any] = _integers(json_format.MessageToDict(struct))
    return plain


def _integers(value: Any) -> Any:
    match value:
        case dict():
            return {key: _integers(item) for key, item in value.items()}
        case list():
            return [_integers(item) for item in value]
        case float() if math.isfinite(value) and value == int(value):
            return int(value)
    return value
