"""A request as talkwire and as vLLM's OpenAI HTTP server take it, and why answers may differ.

Knows no server. What both are told is spelled out twice: how one becomes the other is what the
comparison of their answers proves.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from formats import Meaning
from support import make
from talkwire_proto.v1 import chat_pb2 as pb

FRANCE = "What is the capital of France?"
ASKED = {"role": "user", "content": FRANCE}
IDS = {"include": {"prompt_token_ids": True}}


class Why(Enum):
    """Why an answer of talkwire's is not that of vLLM's server."""

    # How we are.
    NAMED = "a named call is a call: TOOL_CALLS, where vLLM's server says stop"
    NO_PARSER = "a forced call is made by grammar alone; vLLM's server refuses it without a parser"
    DRAWN = "the likeliest; vLLM's server begins with the drawn token and so lacks the last of them"
    BYTES = "the token's own bytes; vLLM's server has those of a replacement character"
    NO_STREAM = "vLLM's server has no log-probabilities of the prompt in a stream"
    ROOM = "-1 leaves room for max_tokens; vLLM's server leaves room for one token"
    UNUSED = "refused, since the template does not use it; vLLM's server ignores it"
    OPTION = "refused, since the operator has not allowed it; vLLM's server takes any option"
    COUNTED = "tokens of thought; vLLM's parser counts none, or none where the prompt opens it"
    # An answer is what its stream is, where vLLM's server gives two answers.
    WHITE = "white space beside calls is text; vLLM's server tells it in streams alone"
    SPELLED = "arguments as the model wrote them; vLLM's server spells them anew unless it streams"
    CUT = "what is there of a call that is cut off; vLLM's server calls it text unless it streams"
    LATER = "cut off after a call: LENGTH; vLLM's server says tool_calls unless it streams"
    FORGOT = "the prompt ended the thought; vLLM's server forgets that unless it streams"
    # But for parsers that do not work token by token.
    WHOLE = "vLLM's parser misreads the format when it streams; here it reads the whole"
    AGAIN = "vLLM's parser leaves a call in the text when it streams; here it is told, too"
    EMPTY = "vLLM's stream gives a call that is cut off before its arguments empty ones"


@dataclass(frozen=True)
class Flags:
    """What both servers are started with, beside the engine's flags.

    Attributes:
        tool_call_parser: The parser of tool calls.
        reasoning_parser: The parser of thoughts.
        chat_template: In place of the model's.
        default_system: Of talkwire alone.
        engine_options: Of talkwire alone: vLLM's server takes any.
        markers: Whether the markers of all formats are tokens.

    """

    tool_call_parser: str | None = None
    reasoning_parser: str = ""
    chat_template: str | None = None
    default_system: str = ""
    engine_options: tuple[str, ...] = ()
    markers: bool = False


PLAIN = Flags()
# Uses all that a chat template may be given.
RICH_TEMPLATE = """\
{%- for tool in tools or [] %}{{ tool | tojson }}
{% endfor %}
{%- for document in documents or [] %}{{ document.title }}: {{ document.text }}
{% endfor %}
{%- if tone is defined %}Be {{ tone }}, {{ times }} times.
{% endif %}
{%- if enable_thinking is defined %}Thinking: {{ enable_thinking }}
{% endif %}
{%- if reasoning_effort %}Effort: {{ reasoning_effort }}
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }} {{ message.name }}
{{ message.reasoning }}{{ message.content }}
{%- for call in message.tool_calls or [] %}{{ call | tojson }}{% endfor %}
{{- message.tool_call_id }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
RICH = Flags("hermes", "qwen3", RICH_TEMPLATE)


@dataclass(frozen=True)
class Case:
    """A request to both.

    Attributes:
        name: What it is about.
        ours: To talkwire.
        theirs: To vLLM's HTTP server, as JSON.
        flags: Of both servers.
        differs: What of the answers differs, and why; under `unary.` or `stream.` only there.
        refusal: If talkwire refuses: the status, and all fields, features or models that it names.
        says: What the model is left to say, if not what it likes; needs `flags.markers`.
        meaning: What that means.

    """

    name: str
    ours: pb.ChatRequest
    theirs: Mapping[str, Any]
    flags: Flags
    differs: Mapping[str, Why]
    refusal: tuple[str, ...] = ()
    says: str = ""
    meaning: Meaning | None = None

    @property
    def differences(self) -> dict[str, Why]:
        """What differs, with the rpc in its name, and why."""
        return {
            name: why
            for told, why in self.differs.items()
            for name in ([told] if "." in told else [f"unary.{told}", f"stream.{told}"])
        }


def case(
    name: str,
    ours: Mapping[str, Any] | None = None,
    theirs: Mapping[str, Any] | None = None,
    flags: Flags = PLAIN,
    differs: Mapping[str, Why] | None = None,
    **more: Any,
) -> Case:
    """Make a case of what is special in it; the rest is a short greedy answer to a question."""
    asked = {"query": FRANCE} | dict(ours or {})
    if "messages" in asked and asked["query"] == FRANCE:
        del asked["query"]
    asked["sampling"] = {"temperature": 0, "max_tokens": 9, **asked.get("sampling", {})}
    body = {"messages": [ASKED], "temperature": 0, "max_completion_tokens": 9, **(theirs or {})}
    return Case(name, make(pb.ChatRequest, **asked), body, flags, differs or {}, **more)


def same(**options: Any) -> Case:
    """Make a case of options of sampling that both call the same."""
    name = ", ".join(f"{name} {value}" for name, value in options.items())
    return case(name, {"sampling": options}, options)
