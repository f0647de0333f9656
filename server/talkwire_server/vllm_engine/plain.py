"""Short chats of plain text, by the model's template and tokenizer and nothing else.

vLLM's way around these takes most of the time that a short chat does. A model of which it does not
make the very same tokens has no `Plain`.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from transformers.utils.chat_template_utils import render_jinja_template
from vllm.config import ModelConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.inputs import EngineInput
from vllm.inputs.engine import tokens_input
from vllm.renderers.chat_utils import parse_chat_messages
from vllm.renderers.hf import resolve_chat_template_content_format, resolve_chat_template_kwargs
from vllm.renderers.online_renderer import OnlineRenderer

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.vllm_engine.parsers import needs_parser

_ASKED = {"query", "system", "messages", "model", "sampling", "n", "request_id", "priority"}
_ASKED |= {"time_limit", "chunking"}
"""Fields of a request that no template sees but as texts, and that vLLM has nothing to check of."""

_PROBES = (
    [("user", "Hi")],
    [("system", " Be brief.\n"), ("user", "Wie heißt du? 你好 🙂 ")],
    [("user", "1 + 1?"), ("assistant", "2"), ("user", "<b>\n\tAnd now?")],
)

R = TypeVar("R", bound=ChatCompletionRequest)


class Plain(Generic[R]):
    """Renders and tokenizes chats of plain text for one model.

    Args:
        renderer: vLLM's.
        template: The model's, Jinja.
        config: The model's.
        checked: A request with nothing but a message, which vLLM has checked.

    """

    def __init__(
        self, renderer: OnlineRenderer, template: str, config: ModelConfig, checked: R
    ) -> None:
        tokenizer = renderer.renderer.get_tokenizer()
        variables = dict(renderer.effective_chat_template_kwargs(checked))
        self._template = template
        self._variables = {
            **tokenizer.special_tokens_map,
            **resolve_chat_template_kwargs(tokenizer, template, variables),
        }
        self._format = resolve_chat_template_content_format(
            template, None, renderer.chat_template_content_format, tokenizer, model_config=config
        )
        self._encode = tokenizer.backend_tokenizer.encode
        self._config = config
        self._checked = checked

    def request(self, made: Mapping[str, Any]) -> R:
        """Spell a request as vLLM does. There is nothing in it for vLLM to check."""
        request: R = self._checked.model_copy(update=made)
        return request

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> EngineInput:
        """Render and tokenize. Raises whatever the template does."""
        conversation, _, _ = parse_chat_messages(list(messages), self._config, self._format)
        (text,), _ = render_jinja_template(
            [conversation], chat_template=self._template, **self._variables
        )
        prompt = tokens_input(self._encode(text, add_special_tokens=False).ids, prompt=text)
        prompt["arrival_time"] = time.time()
        return prompt


async def plain(
    renderer: OnlineRenderer, template: str, config: ModelConfig, request: type[R]
) -> Plain[R] | None:
    """Make the `Plain` of a model; None where vLLM's own way is not just template and tokenizer."""
    if not template or needs_parser(renderer, pb.ChatRequest()):
        return None
    made = None
    for probe in _PROBES:
        messages = [{"role": role, "content": text} for role, text in probe]
        asked = request(messages=messages, max_completion_tokens=1)
        try:
            rendered = await renderer.render_chat(asked)
            made = made or Plain(renderer, template, config, asked)
            ours = made.prompt(messages)
        except Exception:  # noqa: S112  # of any tokenizer and template: one refuses a role
            continue
        if not isinstance(rendered, tuple) or rendered[1] != [ours | _arrival(rendered[1][0])]:
            return None
    return made


def is_plain(asked: pb.ChatRequest, messages: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether there is nothing in a request but messages of text, and numbers.

    Some templates do not know developers; vLLM makes something else of these.
    """
    return all(field.name in _ASKED for field, _ in asked.ListFields()) and all(
        message.keys() == {"role", "content"} and message["role"] != "developer"
        for message in messages
    )


def _arrival(prompt: EngineInput) -> dict[str, Any]:
    return {"arrival_time": prompt["arrival_time"]}
