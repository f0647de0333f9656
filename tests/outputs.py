"""What models write in six of the formats that vLLM reads, and what it says. Knows no parser.

Unlike what `formats` writes it is as uneven as models are: keys in any order, JSON packed or laid
out, escapes, braces in strings, text before, between and after. Those called vLLM's are the outputs
that vLLM 0.32.0 tests its own parsers with (Apache-2.0; in its source distribution under tests/),
to the byte; the others are written down by hand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Output:
    """One answer.

    Attributes:
        written: As the model writes it.
        text: What it says.
        thought: What it thinks.
        calls: What it calls; the arguments to the byte.
        end: The token that ends it, if not the usual one.

    """

    written: str
    text: str = ""
    thought: str = ""
    calls: Sequence[tuple[str, str]] = ()
    end: str = ""


_SAID = "Lisbon is 21 °C: a <b>fine</b> day,\n\n- 天気 👩‍🚀\n- {} and [1, 2]"
_THOUGHT = "\nFirst the weather, 天気;\n\n1. get_weather\n2. now? No: < 3 days.\n"
_HM = "Hm: 天気.\n\nget_weather?"
_LISBON = '{"city": "Lisbon", "days": 3}'
_PACKED = '{"city":"São Paulo","exact":true}'
_NESTED = '{"where": {"lat": 38.72, "tags": ["río", "}{"], "in": {"of": "🇵🇹"}}, "exact": false}'
_ESCAPED = '{"city": "Z\\u00fcrich \\"Altstadt\\"\\n", "unit": "°C \\\\ K"}'
_LAID_OUT = '{\n    "city": "Lisbon",\n    "days": 3\n  }'

_HERMES = {
    "one call": Output(
        f'<tool_call>\n{{"name": "get_weather", "arguments": {_LISBON}}}\n</tool_call>',
        calls=[("get_weather", _LISBON)],
    ),
    "packed": Output(
        f'<tool_call>{{"name":"get_weather","arguments":{_PACKED}}}</tool_call>',
        calls=[("get_weather", _PACKED)],
    ),
    "laid out": Output(
        f'<tool_call>\n{{\n  "name": "get_weather",\n  "arguments": {_LAID_OUT}\n}}\n</tool_call>',
        calls=[("get_weather", _LAID_OUT)],
    ),
    "nested": Output(
        f'<tool_call>\n{{"name": "get_weather", "arguments": {_NESTED}}}\n</tool_call>',
        calls=[("get_weather", _NESTED)],
    ),
    "vLLM's": Output(  # tool_parsers/test_hermes_tool_parser.py
        '<tool_call>\n{"name": "final_answer", "arguments": {"trigger": true}}\n</tool_call>',
        calls=[("final_answer", '{"trigger": true}')],
    ),
    # vLLM's parser takes what follows for arguments, unless its server need not stream.
    "arguments first": Output(
        f'<tool_call>\n{{"arguments": {_LISBON}, "name": "get_weather"}}\n</tool_call>',
        calls=[("get_weather", f'{_LISBON}, "name": "get_weather"')],
    ),
    "text, two calls": Output(
        f'I shall look. 天気?\n<tool_call>\n{{"name": "get_weather", "arguments": {_ESCAPED}}}\n'
        '</tool_call>\n<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
        text="I shall look. 天気?\n",
        calls=[("get_weather", _ESCAPED), ("now", "{}")],
    ),
}


def _thinking(
    outputs: Mapping[str, Output], begin: str = "<think>", end: str = "</think>"
) -> dict[str, Output]:
    """Put a thought before each of several answers."""
    return {
        f"a thought, {name}": Output(
            f"{begin}{_THOUGHT}{end}\n\n{output.written}",
            text=f"\n\n{output.text}",
            thought=_THOUGHT,
            calls=output.calls,
        )
        for name, output in outputs.items()
    }


_TEXT = {"text": Output(_SAID, text=_SAID)}
_CALLS_BEGIN, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"  # noqa: RUF001


def _deepseek(name: str, arguments: str) -> str:
    return (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n"  # noqa: RUF001
        f"```json\n{arguments}\n```<｜tool▁call▁end｜>"  # noqa: RUF001
    )


_ANALYSIS = "<|channel|>analysis<|message|>"
_ASSISTANT = "<|end|><|start|>assistant"
_TO = "<|channel|>commentary to=functions."

# By the formats' names in `formats`; gpt-oss's, which has its own tokenizer, is "harmony".
OUTPUTS: Mapping[str, Mapping[str, Output]] = {
    "hermes": {**_TEXT, **_HERMES},
    "qwen3 with hermes": {
        **_thinking({**_TEXT, **_HERMES}),
        "vLLM's": Output(  # reasoning/test_qwen3_reasoning_parser.py
            "<think>This is a reasoning\nsection</think>This is the rest\nThat",
            text="This is the rest\nThat",
            thought="This is a reasoning\nsection",
        ),
        "no thought": Output(f"<think>\n\n</think>\n\n{_SAID}", f"\n\n{_SAID}", "\n\n"),
        "a thought that does not end": Output(f"<think>{_THOUGHT}", thought=_THOUGHT),
    },
    "llama3_json": {
        **_TEXT,
        "one call": Output(
            f'{{"name": "get_weather", "parameters": {_LISBON}}}', calls=[("get_weather", _LISBON)]
        ),
        "vLLM's": Output(  # tool_parsers/test_llama3_json_tool_parser.py
            '{"name": "searchTool", "parameters": {"query": "test1"}}; '
            '{"name": "getOpenIncidentsTool", "parameters": {}}; '
            '{"name": "searchTool", "parameters": {"query": "test2"}}',
            calls=[
                ("searchTool", '{"query": "test1"}'),
                ("getOpenIncidentsTool", "{}"),
                ("searchTool", '{"query": "test2"}'),
            ],
        ),
        "marked": Output(
            f'<|python_tag|>{{"name": "get_weather", "parameters": {_NESTED}}}',
            calls=[("get_weather", _NESTED)],
        ),
        "typed": Output(
            f'{{"type": "function", "name": "get_weather", "parameters": {_ESCAPED}}}',
            calls=[("get_weather", _ESCAPED.replace("\\u00fc", "ü"))],  # vLLM spells them anew
        ),
        "two calls": Output(
            f'<|python_tag|>{{"name": "get_weather", "parameters": {_LISBON}}}; '
            '{"name": "now", "parameters": {}}',
            calls=[("get_weather", _LISBON), ("now", "{}")],
        ),
    },
    "mistral": {
        **_TEXT,
        "one call": Output(
            f"[TOOL_CALLS]get_weather[ARGS]{_LISBON}", calls=[("get_weather", _LISBON)]
        ),
        # parser/mistral/test_tool_calls.py
        "vLLM's two": Output(
            '[TOOL_CALLS]add{"a": 3.5, "b": 4}[TOOL_CALLS]multiply{"a": 3, "b": 6}',
            calls=[("add", '{"a": 3.5, "b": 4}'), ("multiply", '{"a": 3, "b": 6}')],
        ),
        "vLLM's after text": Output(
            'hi[TOOL_CALLS]add[ARGS]{"a": 1, "b": 2}', "hi", calls=[("add", '{"a": 1, "b": 2}')]
        ),
        "without [ARGS]": Output(
            f"[TOOL_CALLS]get_weather{_NESTED}", calls=[("get_weather", _NESTED)]
        ),
        "text, two calls": Output(
            f"I shall look. 天気?[TOOL_CALLS]get_weather{_ESCAPED}[TOOL_CALLS]now{{}}",
            text="I shall look. 天気?",
            calls=[("get_weather", _ESCAPED), ("now", "{}")],
        ),
    },
    "mistral before 2025": {
        **_TEXT,
        # parser/mistral/test_tool_calls.py
        "vLLM's two": Output(
            '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 3.5, "b": 4}}, '
            '{"name": "get_current_weather", "arguments":'
            '{"city": "San Francisco", "state": "CA", "unit": "celsius"}}]',
            calls=[
                ("add", '{"a": 3.5, "b": 4}'),
                (
                    "get_current_weather",
                    '{"city": "San Francisco", "state": "CA", "unit": "celsius"}',
                ),
            ],
        ),
        "vLLM's after text": Output(
            'Hello[TOOL_CALLS] [{"name": "add", "arguments":{"a": 1, "b": 2}}]',
            text="Hello",
            calls=[("add", '{"a": 1, "b": 2}')],
        ),
        "one call": Output(
            f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {_LISBON}}}]',
            calls=[("get_weather", _LISBON)],
        ),
        "text, two calls": Output(
            f'I shall look.[TOOL_CALLS] [{{"name":"get_weather","arguments":{_PACKED}}},'
            '{"name":"now","arguments":{}}]',
            text="I shall look.",
            calls=[("get_weather", _PACKED), ("now", "{}")],
        ),
    },
    "mistral that thinks": {
        "a thought, text": Output(f"[THINK]{_HM}[/THINK]{_SAID}", _SAID, _HM),
        "a thought, a call": Output(
            f"[THINK]{_HM}[/THINK][TOOL_CALLS]get_weather[ARGS]{_NESTED}",
            thought=_HM,
            calls=[("get_weather", _NESTED)],
        ),
    },
    "deepseek_r1": {
        **_thinking(_TEXT),
        "vLLM's": Output(  # reasoning/test_deepseekr1_reasoning_parser.py
            "<think>This\nThat</think>This is the rest\nThat",
            text="This is the rest\nThat",
            thought="This\nThat",
        ),
        "no word before the end": Output(f"</think>\n{_SAID}", f"\n{_SAID}"),
        "a thought that does not end": Output(f"<think>{_THOUGHT}", thought=_THOUGHT),
    },
    "deepseek_r1, begun in the prompt": {
        **_thinking(_TEXT, begin=""),
        "a thought, two calls": Output(
            f"{_THOUGHT}</think>{_CALLS_BEGIN}{_deepseek('get_weather', _NESTED)}\n"
            f"{_deepseek('now', '{}')}{_CALLS_END}",
            text="\n",
            thought=_THOUGHT,
            calls=[("get_weather", _NESTED), ("now", "{}")],
        ),
    },
    "harmony": {
        "text": Output(f"<|channel|>final<|message|>{_SAID}", _SAID),
        "vLLM's": Output(  # parser/test_harmony.py
            "<|channel|>analysis<|message|>Think<|end|>"
            "<|start|>assistant<|channel|>final<|message|>Answer",
            text="Answer",
            thought="Think",
        ),
        "a thought, text": Output(
            f"{_ANALYSIS}{_THOUGHT}{_ASSISTANT}<|channel|>final<|message|>{_SAID}",
            text=_SAID,
            thought=_THOUGHT,
        ),
        "a thought, a call": Output(
            f"{_ANALYSIS}{_THOUGHT}{_ASSISTANT}"
            f"{_TO}get_weather <|constrain|>json<|message|>{_NESTED}",
            thought=_THOUGHT,
            calls=[("get_weather", _NESTED)],
            end="<|call|>",
        ),
        "the function first": Output(
            f"{_ANALYSIS}{_THOUGHT}{_ASSISTANT} to=functions.now"
            "<|channel|>commentary <|constrain|>json<|message|>{}",
            thought=_THOUGHT,
            calls=[("now", "{}")],
            end="<|call|>",
        ),
        "text, two calls": Output(
            f"<|channel|>commentary<|message|>I shall look. 天気?{_ASSISTANT}"
            f"{_TO}get_weather <|constrain|>json<|message|>{_ESCAPED}{_ASSISTANT}"
            f"{_TO}get_weather <|constrain|>json<|message|>{_LISBON}",
            text="I shall look. 天気?",
            calls=[("get_weather", _ESCAPED), ("get_weather", _LISBON)],
            end="<|call|>",
        ),
    },
}
