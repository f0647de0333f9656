"""vLLM's renderer, without its threads for what is short.

Its way through two threads takes four times what rendering and tokenizing a short chat does, and
more where many chats come at once.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from vllm.renderers.base import BaseRenderer
from vllm.renderers.params import ChatParams

_SHORT = 2000  # characters of a conversation: some 0.2 ms of the event loop


class ShortFirst:
    """A renderer. What it has besides is vLLM's."""

    def __init__(self, renderer: BaseRenderer) -> None:
        self._renderer = renderer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._renderer, name)

    async def render_chat_async(
        self,
        conversations: list[list[dict[str, Any]]],
        chat_params: ChatParams,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Render and tokenize, in a thread only what is long, or has tools, documents or media."""
        variables = chat_params.chat_template_kwargs
        bare = not (variables.get("tools") or variables.get("documents"))
        if bare and len(str(variables)) <= _SHORT and all(map(is_short, conversations)):
            return self._renderer.render_chat(conversations, chat_params, *args, **kwargs)
        return await self._renderer.render_chat_async(conversations, chat_params, *args, **kwargs)


def is_short(conversation: Iterable[Mapping[str, Any]]) -> bool:
    """Tell whether rendering and tokenizing a conversation of texts holds nobody up."""
    left = _SHORT
    for message in conversation:
        left -= len(str(message))
        if left < 0 or not isinstance(message.get("content"), str):
            return False
    return True
