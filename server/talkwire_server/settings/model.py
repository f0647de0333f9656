"""Which model answers, and how it reads a chat."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from talkwire_server.adapters import module_faults
from talkwire_server.conversation import DEFAULT_SYSTEM
from talkwire_server.settings.flag import Group, flag


@dataclass(frozen=True, kw_only=True)
class ModelSettings(Group):
    """Model."""

    engine: Literal["vllm", "echo"] = flag("vllm", "echo needs no model")
    model: str | None = flag(None, "id or local path; default: the embedded model")
    served_model_name: tuple[str, ...] = flag((), "names to serve under", metavar="NAME")
    modelscope: bool = flag(False, "the id is ModelScope's")
    chat_template: str | None = flag(None, "Jinja file or text in place of the model's")
    default_system: str = flag(DEFAULT_SYSTEM, "system prompt of requests without; may be empty")
    lora_modules: tuple[str, ...] = flag((), "LoRA adapters", metavar="NAME=PATH")
    tool_call_parser: str | None = flag(None, "vLLM's parser of the model's tool calls")
    tool_parser_plugin: str | None = flag(
        None, "Python file that registers a tool call parser", metavar="FILE"
    )
    engine_options: tuple[str, ...] = flag(
        (), "what a request's engine_options may hold", metavar="NAME", name="allow_engine_options"
    )
    echo_delay: float = flag(0.0, "of an echo engine's step, a word", at_least=0, metavar="S")
    engine_args: tuple[str, ...] = ()  # vLLM's engine flags as they were given

    def faults(self) -> Iterator[str]:
        """Find adapters that are spelled wrongly, and what the echo engine does not take."""
        yield from module_faults(self.lora_modules)
        if self.engine == "echo" and (flags := [*self._vllm_flags()]):
            yield f"the echo engine takes no {' '.join(flags)}"

    def _vllm_flags(self) -> Iterator[str]:
        ours = {
            "--model": self.model,
            "--modelscope": self.modelscope,
            "--chat-template": self.chat_template,
            "--lora-modules": self.lora_modules,
            "--tool-call-parser": self.tool_call_parser,
            "--tool-parser-plugin": self.tool_parser_plugin,
            "--allow-engine-options": self.engine_options,
        }
        yield from (flag for flag, given in ours.items() if given)
        yield from self.engine_args
