"""Answers in every format that vLLM has a parser for, as a model would write them."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from conformance.cases import Case, Flags, Why, case
from conformance.tools import to_us, to_vllm
from formats import COMMON, RARE, TOOLS, Format, Meaning
from talkwire_proto.v1 import chat_pb2 as pb

# ChatML, and the variables that some parsers look at.
TEMPLATE = """\
{%- if thinking or enable_thinking or reasoning_effort or tools %}{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

# Those that differ only in which of their markers are tokens: here all are.
_TWICE = {"hermes, special tokens", "hermes, markers as text", "mistral before 2025"}
# Leaves thoughts in the text, as told.
_THINKS_ON = replace(RARE["minimax_m2"], reasoning="minimax_m2_append_think", think=None)
FORMATS: Mapping[str, Format] = {
    **{name: form for name, form in (COMMON | RARE).items() if name not in _TWICE},
    "minimax_m2_append_think": replace(_THINKS_ON, text=lambda text: f"{_THOUGHT}</think>{text}"),
    "minimax_m2_append_think, amid a thought": _THINKS_ON,
}
# Parsers that know calls at the beginning of an answer only, or nothing beside them.
_ALONE = {
    "gigachat3",
    "granite-20b-fc",
    "llama4_json",
    "llama4_pythonic",
    "minicpm5",
    "olmo3",
    "phi4_mini_json",
    "pythonic",
    "xlam",
}

_PARIS = ("get_weather", {"city": "Paris"})
_SAID = "a < b\n"
_THOUGHT = "Hm."


def _meanings(name: str, form: Format) -> Mapping[str, Meaning]:
    """Choose what to say in a format."""
    thought = _THOUGHT if form.think else ""
    if not form.calls:
        return {"text": Meaning(thought, _SAID)}
    if name in _ALONE:
        return {"a call": Meaning(thought, calls=[_PARIS])}
    if name in COMMON:
        return {
            "a call": Meaning(thought, calls=[_PARIS]),
            "text and two calls": Meaning(thought, _SAID, [_PARIS, ("now", {})]),
        }
    return {"text and a call": Meaning(thought, _SAID, [_PARIS])}


def _written(name: str, form: Format, meaning: Meaning) -> Case:
    """Make a case of an answer in a model's format."""
    functions = [tool["function"] for tool in TOOLS] if form.tools else []
    ours: dict[str, Any] = {
        "messages": [{"text": "Now."}],
        "tools": to_us(*functions),
        "sampling": {"max_tokens": 200},
    }
    theirs: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Now."}],
        "tools": to_vllm(*functions) or None,
        "max_completion_tokens": 200,
    }
    if form.kwargs:
        ours["template"] = {"kwargs": form.kwargs}
        theirs["chat_template_kwargs"] = form.kwargs
    if form.prompt:
        ours["messages"].append({"role": pb.ROLE_ASSISTANT, "text": form.prompt})
        ours["template"] = {**ours.get("template", {}), "continue_final_message": True}
        theirs["messages"].append({"role": "assistant", "content": form.prompt})
        theirs |= {"continue_final_message": True, "add_generation_prompt": False}
    flags = Flags(form.tools, form.reasoning or "", TEMPLATE, markers=True)
    differs = _DIFFERENCES.get(name, {})
    says = form.write(meaning) or ""
    return case(name, ours, theirs, flags, differs, says=says, meaning=meaning)


_UNCALLED = ("stream.tool_calls", "stream.finish_reason")
_COUNTED = {"reasoning_tokens": Why.COUNTED}
_DIFFERENCES: Mapping[str, Mapping[str, Why]] = {
    "apertus: text and a call": {"unary.text": Why.WHITE},
    "deepseek_r1, begun in the prompt: text and a call": _COUNTED,
    "dots: text and a call": {"unary.text": Why.WHITE},
    "ernie45: text and a call": {"unary.text": Why.WHITE},
    "functiongemma: text and a call": {"stream.text": Why.WHOLE},
    "gemma4: text and a call": {"unary.text": Why.WHITE},
    "glm45: text and a call": {"unary.text": Why.WHITE},
    "glm47: text and a call": {"unary.text": Why.WHITE},
    "granite: text and a call": {"unary.text": Why.WHITE},
    "granite that thinks: text": _COUNTED,
    "granite_thinking_parser: text and a call": {"unary.text": Why.WHITE},
    "hunyuan_a13b: text and a call": dict.fromkeys(("stream.text", *_UNCALLED), Why.WHOLE),
    "hy_v4: text and a call": {"stream.text": Why.WHOLE},
    "lfm2: text and a call": {"unary.text": Why.WHITE},
    "ling3: text and a call": {"unary.text": Why.WHITE},
    "llama3_json: text and two calls": dict.fromkeys(("unary.text", *_UNCALLED), Why.AGAIN),
    "mimo: text and a call": {"unary.text": Why.WHITE},
    "minicpm5: a call": {"stream.text": Why.WHOLE},
    "minicpmv: text and a call": {"unary.text": Why.WHITE},
    "minimax_m2: text and a call": {"unary.text": Why.WHITE},
    "minimax_m2_append_think: text and a call": {"unary.text": Why.WHITE},
    "minimax_m2_append_think, amid a thought: text and a call": dict.fromkeys(
        ("unary.text", *_UNCALLED), Why.AGAIN
    ),
    "mistral that thinks: text and two calls": {"unary.text": Why.WHITE},
    "mistral: text and two calls": {"unary.text": Why.WHITE},
    "muse_glimmer: text and a call": _COUNTED,
    "nemotron_v3: text and a call": {"unary.text": Why.WHITE},
    "olmo3: a call": dict.fromkeys(("stream.text", *_UNCALLED), Why.WHOLE),
    "phi4_mini_json: a call": dict.fromkeys(_UNCALLED, Why.WHOLE),
    "poolside_v1: text and a call": _COUNTED,
    "qwen3 told not to think: text and a call": dict.fromkeys(
        ("unary.text", "unary.reasoning"), Why.FORGOT
    ),
    "qwen3 with qwen3_coder: text and two calls": {"unary.text": Why.WHITE},
    "qwen3_coder: text and a call": {"unary.text": Why.WHITE},
    "qwen3_xml: text and a call": {"unary.text": Why.WHITE},
    "seed_oss: text and a call": {"unary.text": Why.WHITE},
    "step3: text and a call": {"unary.text": Why.WHITE},
    "step3p5: text and a call": {"unary.text": Why.WHITE},
}


def _cases() -> Iterator[Case]:
    for name, form in FORMATS.items():
        for what, meaning in _meanings(name, form).items():
            title = f"{name}: {what}"
            yield _written(title, form, meaning)


PARSERS: list[Case] = list(_cases())
