"""What a model and this server's flags allow, beside what talkwire knows at all."""

from collections.abc import Iterator
from dataclasses import dataclass

from vllm.config import VllmConfig

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import forces_call
from talkwire_server.media import MediaStore, media_in
from talkwire_server.settings import Settings
from talkwire_server.vllm_engine.prompt import Prompts
from talkwire_server.vllm_engine.request import may_call


@dataclass(frozen=True, slots=True)
class Abilities:
    """Those of one model.

    Attributes:
        model: As callers are told of it.
        config: The engine's.
        settings: The server's.
        tool_parser: Its name, if there is one.
        prompts: What makes the model's prompts.
        media: Where images, sound and film come from.

    """

    model: pb.Model
    config: VllmConfig
    settings: Settings
    tool_parser: str | None
    prompts: Prompts
    media: MediaStore

    def lacking(self, request: pb.ChatRequest) -> Iterator[str]:
        """Name what a request asks beyond them."""
        if request.priority and self.config.scheduler_config.policy != "priority":
            yield "priority (the server has no --scheduling-policy priority)"
        if may_call(request) and not forces_call(request):
            if not self.tool_parser:
                yield "tools with tool_choice AUTO (the server has no --tool-call-parser)"
            for i, tool in enumerate(request.tools):
                if tool.function.strict and not self.prompts.constrains_calls:
                    yield f"tools[{i}].function.strict (the tool call parser has no grammar)"
        if request.HasField("reasoning") and not self.model.reasoning:
            yield "reasoning (the server has no --reasoning-parser)"
        elif request.reasoning.HasField("max_tokens") and not self._bounds_thoughts:
            yield "reasoning.max_tokens (the reasoning parser names no marks of a thought)"
        if request.continuation.text and (self.tool_parser or self.model.reasoning):
            yield "continuation.text (this model's answers are parsed: give token_ids)"
        for name in request.engine_options.fields:
            if name not in self.settings.engine_options:
                yield f"engine_options.{name}"
        for name in self.prompts.template.unused(request):
            yield f"{name} (the model's chat template does not use it)"
        yield from self.media.unsupported(request)
        for path, kind, _ in media_in(request):
            if kind not in self.model.input_modalities:
                yield f"{path} (the model takes {', '.join(self.model.input_modalities)})"

    @property
    def _bounds_thoughts(self) -> bool:
        reasoning = self.config.reasoning_config
        return reasoning is not None and reasoning.enabled
