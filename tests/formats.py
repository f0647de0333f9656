"""How models write down what they mean: the formats of thoughts and tool calls that vLLM reads."""
# ruff: noqa: RUF001  # several models' markers are written with look-alikes of ASCII characters

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Call = tuple[str, dict[str, Any]]


@dataclass(frozen=True)
class Meaning:
    """What a model says: maybe a thought, maybe text, maybe calls."""

    thought: str = ""
    text: str = ""
    calls: Sequence[Call] = ()


@dataclass(frozen=True)
class Format:
    """A way of writing.

    Attributes:
        tools: vLLM's parser of its tool calls.
        reasoning: vLLM's parser of its thoughts.
        calls: How calls are written.
        think: What begins and ends a thought.
        text: How text is written, if not as it is.
        special: Special tokens of the model; the markers that are none of its tokens are text.
        added: Its other tokens that are markers.
        prompt: The end of the prompt; a thought may begin in it.
        kwargs: Variables of the chat template that its parsers look at.
        silent: Thoughts of no length are written, too.

    """

    tools: str | None = None
    reasoning: str | None = None
    calls: Callable[[Sequence[Call]], str] | None = None
    think: tuple[str, str] | None = None
    text: Callable[[str], str] = str
    special: Sequence[str] = ()
    added: Sequence[str] = ()
    prompt: str = ""
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    silent: bool = True

    def write(self, meaning: Meaning) -> str | None:
        """Write something down; None if that cannot be said in this format."""
        if (meaning.thought and not self.think) or (meaning.calls and not self.calls):
            return None
        written = ""
        if self.think and (meaning.thought or self.silent):
            written += self.think[0] + meaning.thought + self.think[1]
        if meaning.text:
            written += self.text(meaning.text)
        if meaning.calls and self.calls:
            written += self.calls(meaning.calls)
        return written


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _each(
    one: Callable[[str, dict[str, Any]], str], between: str = "", before: str = "", after: str = ""
) -> Callable[[Sequence[Call]], str]:
    return lambda calls: before + between.join(one(*call) for call in calls) + after


def _array(before: str, after: str = "") -> Callable[[Sequence[Call]], str]:
    return lambda calls: before + _json([{"name": n, "arguments": a} for n, a in calls]) + after


def _object(key: str = "arguments") -> Callable[[str, dict[str, Any]], str]:
    return lambda name, arguments: _json({"name": name, key: arguments})


def _tagged(begin: str, end: str) -> Callable[[str, dict[str, Any]], str]:
    return lambda name, arguments: f"{begin}\n{_object()(name, arguments)}\n{end}"


def _parameters(arguments: dict[str, Any], one: str) -> str:
    return "".join(one.format(key=key, value=_plain(v)) for key, v in arguments.items())


def _qwen_xml(name: str, arguments: dict[str, Any]) -> str:
    parameters = _parameters(arguments, "<parameter={key}>\n{value}\n</parameter>\n")
    return f"<tool_call>\n<function={name}>\n{parameters}</function>\n</tool_call>"


def _mimo(name: str, arguments: dict[str, Any]) -> str:
    parameters = _parameters(arguments, "<parameter={key}>{value}</parameter>")
    return f"<tool_call>\n<function={name}>{parameters}</function>\n</tool_call>"


def _invoke(name: str, arguments: dict[str, Any]) -> str:
    parameters = _parameters(arguments, '<parameter name="{key}">{value}</parameter>\n')
    return f'<invoke name="{name}">\n{parameters}</invoke>\n'


def _dsml(mark: str) -> Callable[[str, dict[str, Any]], str]:
    def one(name: str, arguments: dict[str, Any]) -> str:
        parameters = "".join(
            f'<{mark}parameter name="{key}" string="{_json(isinstance(value, str))}">'
            f"{_plain(value)}</{mark}parameter>\n"
            for key, value in arguments.items()
        )
        return f'<{mark}invoke name="{name}">\n{parameters}</{mark}invoke>\n'

    return one


def _glm(name: str, arguments: dict[str, Any]) -> str:
    one = "<arg_key>{key}</arg_key>\n<arg_value>{value}</arg_value>\n"
    return f"<tool_call>{name}\n{_parameters(arguments, one)}</tool_call>"


def _hunyuan(separator: str) -> Callable[[str, dict[str, Any]], str]:
    one = "<arg_key>{key}</arg_key><arg_value>{value}</arg_value>"
    return lambda name, arguments: (
        f"<tool_call>{name}{separator}{_parameters(arguments, one)}</tool_call>"
    )


def _python(name: str, arguments: dict[str, Any]) -> str:
    given = (
        f"{key}={_json(value) if isinstance(value, str) else repr(value)}"
        for key, value in arguments.items()
    )
    return f"{name}({', '.join(given)})"


def _gemma(value: Any) -> str:
    match value:
        case str():
            return f'<|"|>{value}<|"|>'
        case dict():
            return "{" + ",".join(f"{key}:{_gemma(item)}" for key, item in value.items()) + "}"
        case list():
            return "[" + ",".join(map(_gemma, value)) + "]"
    return _json(value)


def _function_gemma(name: str, arguments: dict[str, Any]) -> str:
    given = ",".join(f"{key}:<escape>{_plain(v)}<escape>" for key, v in arguments.items())
    return f"<start_function_call>call:{name}{{{given}}}<end_function_call>"


def _minimax_m3(name: str, arguments: dict[str, Any]) -> str:
    mark = "]<]minimax[>["

    def element(key: str, value: Any) -> str:
        match value:
            case dict():
                inner = "".join(element(k, v) for k, v in value.items())
            case list():
                inner = "".join(element("item", item) for item in value)
            case _:
                inner = _plain(value)
        return f"{mark}<{key}>{inner}{mark}</{key}>"

    parameters = "".join(element(key, value) + "\n" for key, value in arguments.items())
    return f'{mark}<invoke name="{name}">\n{parameters}{mark}</invoke>\n'


def _minicpm(name: str, arguments: dict[str, Any]) -> str:
    parameters = _parameters(arguments, '<param name="{key}">{value}</param>')
    return f'<function name="{name}">{parameters}</function>'


def _muse(name: str, arguments: dict[str, Any]) -> str:
    one = '<atem:parameter name="{key}">{value}</atem:parameter>\n'
    return (
        f"<|start|>assistant to={name}<|message|><atem:function_calls>\n"
        f'<atem:invoke name="{name}">\n{_parameters(arguments, one)}</atem:invoke>\n'
        "</atem:function_calls><|eom|>"
    )


def _step3(name: str, arguments: dict[str, Any]) -> str:
    one = '<steptml:parameter name="{key}">{value}</steptml:parameter>'
    return (
        f'<｜tool_call_begin｜>function<｜tool_sep｜><steptml:invoke name="{name}">'
        f"{_parameters(arguments, one)}</steptml:invoke><｜tool_call_end｜>"
    )


def _kimi_k2(calls: Sequence[Call]) -> str:
    written = "".join(
        f"<|tool_call_begin|>functions.{name}:{i}"
        f"<|tool_call_argument_begin|>{_json(arguments)}<|tool_call_end|>"
        for i, (name, arguments) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{written}<|tool_calls_section_end|>"


def _kimi_k3(calls: Sequence[Call]) -> str:
    types = {str: "string", int: "number", bool: "boolean", dict: "object"}
    written = ""
    for i, (name, arguments) in enumerate(calls):
        written += f'<|open|>call tool="{name}" index="{i}"<|sep|>'
        for key, value in arguments.items():
            written += f'<|open|>argument key="{key}" type="{types[type(value)]}"<|sep|>'
            written += f"{_plain(value)}<|close|>argument<|sep|>"
        written += "<|close|>call<|sep|>"
    return f"<|open|>tools<|sep|>{written}<|close|>tools<|sep|>"


def _plamo(name: str, arguments: dict[str, Any]) -> str:
    def part(kind: str, inner: str) -> str:
        return f"<|plamo:begin_tool_{kind}:plamo|>{inner}<|plamo:end_tool_{kind}:plamo|>"

    given = f"<|plamo:constrain|>json<|plamo:msg|>{_json(arguments)}"
    return part("request", part("name", name) + part("arguments", given))


_THINK = ("<think>", "</think>")
_CALL = ("<tool_call>", "</tool_call>")
_ARGS = ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
_CALLS = ("<tool_calls>", "</tool_calls>")
_DEEPSEEK = tuple(
    f"<｜tool▁{name}｜>" for name in ["calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep"]
)
_STEP = tuple(
    f"<｜tool_{name}｜>" for name in ["calls_begin", "calls_end", "call_begin", "call_end", "sep"]
)
_KIMI = (
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
# One set for all, since the less tokenizers there are, the sooner the tests are done.
_MARKS = (
    *_THINK,
    *_CALL,
    *_ARGS,
    *_CALLS,
    *_DEEPSEEK,
    "<tool_sep>",
    "<response>",
    "</response>",
    "<0x0A>",
    "<function_calls>",
    "</function_calls>",
    "<longcat_tool_call>",
    "</longcat_tool_call>",
    "<minimax:tool_call>",
    "</minimax:tool_call>",
    "<mm:think>",
    "</mm:think>",
    "]<]minimax[>[",
    "<seed:think>",
    "</seed:think>",
    "<seed:tool_call>",
    "</seed:tool_call>",
)
_hermes = _each(_tagged(*_CALL), "\n")
_qwen = _each(_qwen_xml, "\n")
_mistral = _each(lambda name, arguments: f"[TOOL_CALLS]{name}[ARGS]{_json(arguments)}")
_minimax = _each(_invoke, "", "<minimax:tool_call>\n", "</minimax:tool_call>")


def _deepseek_v3(name: str, arguments: dict[str, Any]) -> str:
    begin, end, sep = _DEEPSEEK[2:]
    return f"{begin}function{sep}{name}\n```json\n{_json(arguments)}\n```{end}"


def _deepseek_v31(name: str, arguments: dict[str, Any]) -> str:
    begin, end, sep = _DEEPSEEK[2:]
    return f"{begin}{name}{sep}{_json(arguments)}{end}"


# The formats that the most models write.
COMMON: dict[str, Format] = {
    "hermes": Format("hermes", None, _hermes, added=_MARKS),
    "qwen3 with hermes": Format("hermes", "qwen3", _hermes, _THINK, added=_MARKS),
    "qwen3 with qwen3_coder": Format("qwen3_coder", "qwen3", _qwen, _THINK, added=_MARKS),
    "llama3_json": Format(
        "llama3_json", None, _each(_object("parameters"), "; "), special=["<|python_tag|>"]
    ),
    "mistral": Format("mistral", None, _mistral, special=["[TOOL_CALLS]", "[ARGS]"]),
    "mistral that thinks": Format(
        "mistral",
        "mistral",
        _mistral,
        ("[THINK]", "[/THINK]"),
        special=["[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"],
        silent=False,
    ),
    "deepseek_r1": Format(None, "deepseek_r1", None, _THINK, added=_MARKS),
    "deepseek_r1 with hermes": Format("hermes", "deepseek_r1", _hermes, _THINK, added=_MARKS),
}

# Their variants, and all others that can be written with the embedded model's tokens and markers.
RARE: dict[str, Format] = {
    "hermes, special tokens": Format("hermes", None, _hermes, special=_CALL),
    "hermes, markers as text": Format("hermes", None, _hermes),
    "qwen3 told not to think": Format(
        "hermes", "qwen3", _hermes, added=_MARKS, prompt="<think>\n\n</think>\n\n"
    ),
    "qwen3_coder": Format("qwen3_coder", None, _qwen, added=_MARKS),
    "mistral before 2025": Format(
        "mistral", None, _array("[TOOL_CALLS]"), special=["[TOOL_CALLS]"]
    ),
    "deepseek_r1, begun in the prompt": Format(
        "deepseek_v3",
        "deepseek_r1",
        _each(_deepseek_v3, "\n", *_DEEPSEEK[:2]),
        ("", "</think>"),
        added=_MARKS,
        prompt="<think>\n",
    ),
    "apertus": Format(
        "apertus",
        None,
        lambda calls: f"<|tools_prefix|>{_json([dict([c]) for c in calls])}<|tools_suffix|>",
        special=["<|tools_prefix|>", "<|tools_suffix|>"],
    ),
    "deepseek_v31": Format(
        "deepseek_v31",
        "deepseek_v3",
        _each(_deepseek_v31, "", *_DEEPSEEK[:2]),
        _THINK,
        added=_MARKS,
        kwargs={"thinking": True},
    ),
    "deepseek_v32": Format(
        "deepseek_v32",
        None,
        _each(_dsml("｜DSML｜"), "", "<｜DSML｜function_calls>\n", "</｜DSML｜function_calls>"),
    ),
    "deepseek_v4": Format(
        "deepseek_v4",
        "deepseek_v4",
        _each(_dsml("｜DSML｜"), "", "<｜DSML｜tool_calls>\n", "</｜DSML｜tool_calls>"),
        _THINK,
        added=_MARKS,
    ),
    "deepseek_v41": Format(
        "deepseek_v41",
        "deepseek_v41",
        _each(_dsml("｜DSML｜ "), "", "<｜DSML｜ calls>\n", "</｜DSML｜ calls>"),
        _THINK,
        added=_MARKS,
    ),
    "dots": Format(
        "dots", None, _each(_invoke, "", "<dots_function_call>\n", "</dots_function_call>")
    ),
    "ernie45": Format(
        "ernie45",
        "ernie45",
        _each(lambda n, a: _tagged(*_CALL)(n, a) + "\n"),
        _THINK,
        added=_MARKS,
    ),
    "functiongemma": Format(
        "functiongemma",
        None,
        _each(_function_gemma),
        special=["<start_function_call>", "<end_function_call>", "<escape>"],
    ),
    "gemma4": Format(
        "gemma4",
        "gemma4",
        _each(lambda n, a: f"<|tool_call>call:{n}{_gemma(a)}<tool_call|>"),
        ("<|channel>thought\n", "<channel|>"),
        special=["<|tool_call>", "<tool_call|>", '<|"|>', "<|channel>", "<channel|>"],
        silent=False,
    ),
    "gigachat3": Format(
        "gigachat3",
        None,
        _each(lambda n, a: "<|function_call|>" + _object()(n, a)),
        special=["<|function_call|>", "<|message_sep|>", "<|role_sep|>"],
    ),
    "glm45": Format("glm45", "glm45", _each(_glm, "\n"), _THINK, added=_MARKS),
    "glm47": Format("glm47", "glm47", _each(_glm, "\n"), _THINK, added=_MARKS),
    "granite": Format("granite", None, _array("<|tool_call|> "), special=["<|tool_call|>"]),
    "granite that thinks": Format(
        None,
        "granite",
        None,
        ("Here is my thought process:", "Here is my response:"),
        silent=False,
    ),
    "granite4": Format("granite4", None, _hermes, special=_CALL),
    "granite-20b-fc": Format(
        "granite-20b-fc", None, _each(lambda n, a: f"<function_call> {_object()(n, a)}", "\n")
    ),
    "granite_thinking_parser": Format(
        "qwen3_coder", "granite_thinking_parser", _qwen, _THINK, added=_MARKS
    ),
    "holo2": Format("hermes", "holo2", _hermes, _THINK, added=_MARKS),
    "hunyuan_a13b": Format("hunyuan_a13b", None, _array(*_CALLS)),
    "hy_v3": Format(
        "hy_v3",
        "hy_v3",
        _each(_hunyuan("<tool_sep>"), "\n", *_CALLS),
        _THINK,
        added=_MARKS,
        kwargs={"reasoning_effort": "high"},
    ),
    "hy_v4": Format(
        "hy_v4",
        "hy_v4",
        _each(_hunyuan(""), "", *_CALLS),
        _THINK,
        added=_MARKS,
    ),
    "inkling": Format(
        "inkling",
        "inkling",
        _each(
            lambda n, a: (
                "<|message_model|><|content_invoke_tool_json|>"
                f"{_json({'name': n, 'args': a})}<|end_message|>"
            )
        ),
        ("<|message_model|><|content_thinking|>", "<|end_message|>"),
        lambda text: f"<|message_model|><|content_text|>{text}<|end_message|>",
        special=[
            "<|message_model|>",
            "<|content_thinking|>",
            "<|content_text|>",
            "<|content_invoke_tool_json|>",
            "<|end_message|>",
        ],
        silent=False,
    ),
    "internlm": Format(
        "internlm",
        None,
        _each(
            lambda n, a: f"<|action_start|><|plugin|>{_object('parameters')(n, a)}<|action_end|>"
        ),
        special=["<|action_start|>", "<|plugin|>", "<|action_end|>"],
    ),
    "jamba": Format("jamba", None, _array(*_CALLS), special=_CALLS),
    "k2_horizon": Format(
        "k2_horizon",
        "k2_horizon",
        _each(
            lambda n, a: _hunyuan("")(n, a).replace("<", "<ifm|").replace("<ifm|/", "</ifm|"),
            "",
            "<ifm|tool_calls>",
            "</ifm|tool_calls>",
        ),
        ("<ifm|think>", "</ifm|think>"),
        added=[
            f"<{end}ifm|{name}>"
            for name in ["tool_calls", "tool_call", "arg_key", "arg_value", "think"]
            for end in ("", "/")
        ],
    ),
    "kimi_k2": Format("kimi_k2", "kimi_k2", _kimi_k2, _THINK, special=_KIMI, added=_MARKS),
    "kimi_k3": Format(
        "kimi_k3",
        "kimi_k3",
        _kimi_k3,
        ("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        lambda text: f"<|open|>response<|sep|>{text}<|close|>response<|sep|>",
        special=["<|open|>", "<|close|>", "<|sep|>"],
    ),
    "lfm2": Format(
        "lfm2",
        None,
        _each(_python, ", ", "<|tool_call_start|>[", "]<|tool_call_end|>"),
        special=["<|tool_call_start|>", "<|tool_call_end|>"],
    ),
    "ling3": Format("ling3", "ling3", _each(_glm, "\n"), _THINK, added=_MARKS),
    "llama4_json": Format(
        "llama4_json", None, _each(_object("parameters"), "; "), special=["<|python_tag|>"]
    ),
    "llama4_pythonic": Format("llama4_pythonic", None, _each(_python, ", ", "[", "]")),
    "longcat": Format(
        "longcat",
        None,
        _each(_tagged("<longcat_tool_call>", "</longcat_tool_call>"), "\n"),
        added=_MARKS,
    ),
    "mimo": Format("mimo", "mimo", _each(_mimo, "\n"), _THINK, added=_MARKS),
    "minicpm5": Format("minicpm5", None, _each(_minicpm, "\n")),
    "minicpmv": Format("qwen3_coder", "minicpmv", _qwen, _THINK, added=_MARKS),
    "minimax_m2": Format(
        "minimax_m2",
        "minimax_m2",
        _minimax,
        _THINK,
        added=_MARKS,
    ),
    "minimax_m3": Format(
        "minimax_m3",
        "minimax_m3",
        _each(_minimax_m3, "", "]<]minimax[>[<tool_call>\n", "]<]minimax[>[</tool_call>"),
        ("<mm:think>", "</mm:think>"),
        added=_MARKS,
    ),
    "muse_glimmer": Format(
        "muse_glimmer",
        "muse_glimmer",
        _each(_muse),
        (" to=self<|message|>", "<|eom|>"),
        lambda text: f"<|start|>assistant to=user<|message|>{text}<|eom|>",
        special=["<|start|>", "<|message|>", "<|eom|>", "<|eot|>"],
        silent=False,
    ),
    "nemotron_v3": Format("qwen3_coder", "nemotron_v3", _qwen, _THINK, added=_MARKS),
    "olmo3": Format(
        "olmo3",
        "olmo3",
        _each(_python, "\n", "<function_calls>", "</function_calls>"),
        _THINK,
        added=_MARKS,
    ),
    "phi4_mini_json": Format("phi4_mini_json", None, _array("functools")),
    "plamo3": Format(
        "plamo3",
        "plamo3",
        _each(
            _plamo,
            "",
            "<|plamo:begin_tool_requests:plamo|>",
            "<|plamo:end_tool_requests:plamo|>",
        ),
        ("<|plamo:begin_think:plamo|>", "<|plamo:end_think:plamo|>"),
        added=[
            "<|plamo:begin_",
            "<|plamo:end_",
            ":plamo|>",
            "<|plamo:constrain|>",
            "<|plamo:msg|>",
            "<|plamo:tag|>",
        ],
    ),
    "poolside_v1": Format(
        "poolside_v1",
        "poolside_v1",
        _each(_glm, "\n"),
        ("", "</think>"),
        special=["<assistant>"],
        added=_MARKS,
        prompt="<assistant><think>",
        kwargs={"enable_thinking": True},
    ),
    "pythonic": Format("pythonic", None, _each(_python, ", ", "[", "]")),
    "qwen3_json": Format("qwen3_json", None, _hermes, added=_MARKS),
    "qwen3_xml": Format("qwen3_xml", None, _qwen, added=_MARKS),
    "seed_oss": Format(
        "seed_oss",
        "seed_oss",
        _each(lambda n, a: _qwen_xml(n, a).replace("tool_call", "seed:tool_call"), "\n"),
        ("<seed:think>", "</seed:think>"),
        added=_MARKS,
    ),
    "step3": Format(
        "step3",
        "step3",
        _each(_step3, "", *_STEP[:2]),
        ("", "</think>"),
        special=_STEP,
        added=_MARKS,
        prompt="<think>\n",
    ),
    "step3p5": Format("step3p5", "step3p5", _qwen, _THINK, added=_MARKS),
    "xlam": Format("xlam", None, _array("")),
}

_PARIS: Call = ("get_weather", {"city": "Paris", "unit": "celsius"})
_TOKYO: Call = ("get_weather", {"city": "Tokyo", "days": 3})
_THOUGHT = "I think, therefore I am. Zürich 東京?"

MEANINGS: dict[str, Meaning] = {
    "text": Meaning(text="The sky is blue, 日本語 👩‍🚀: 100 %, a < b."),
    "one call": Meaning(calls=[_PARIS]),
    "two calls": Meaning(calls=[_PARIS, _TOKYO]),
    "text, then a call": Meaning(text="Let me look.\n", calls=[_PARIS]),
    "unicode and escapes": Meaning(
        calls=[("get_weather", {"city": 'Zürich "東京" 👩‍🚀 a\\b', "unit": "°C\nnew"})]
    ),
    "nested": Meaning(
        calls=[
            (
                "get_weather",
                {"where": {"lat": 4.5, "tags": ["a", "b"], "in": {"of": "c"}}, "exact": True},
            )
        ]
    ),
    "no arguments": Meaning(calls=[("now", {})]),
    "a thought, then text": Meaning(_THOUGHT, "Yes: 日本語 👩‍🚀."),
    "a thought, then a call": Meaning(_THOUGHT, calls=[_PARIS]),
    "a thought, text, two calls": Meaning(_THOUGHT, "Let me look.\n", [_PARIS, _TOKYO]),
}

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "unit": {"type": "string"},
                    "days": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "where": {
                        "type": "object",
                        "properties": {
                            "lat": {"type": "number"},
                            "tags": {"type": "array", "items": {"type": "string"}},
                            "in": {"type": "object", "properties": {"of": {"type": "string"}}},
                        },
                    },
                },
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "parameters": {"type": "object", "properties": {}}},
    },
]
