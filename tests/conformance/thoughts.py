"""Thoughts, and how much of them: in both vocabularies."""

from conformance.cases import IDS, RICH, RICH_TEMPLATE, Flags, case
from conformance.sampling import DRAW
from conformance.tools import RED, calling

QWEN = Flags("hermes", "qwen3", RICH_TEMPLATE, markers=True)

THOUGHT = "<think>Hm.</think>Paris."
EFFORTS = ("none", "minimal", "low", "medium", "high", "max")
THOUGHTS = [
    case("a thought", flags=QWEN, says=THOUGHT),
    case("a thought cut off", flags=QWEN, says=f"<think>{'Hm. ' * 9}"),
    calling("a thought and a call", flags=QWEN, says=f"<think>Hm.</think>{RED}"),
    case(
        "exclude",
        {"reasoning": {"exclude": True}},
        {"include_reasoning": False},
        QWEN,
        says=THOUGHT,
    ),
    case("n thoughts", {"n": 2, "sampling": DRAW}, {"n": 2, **DRAW}, QWEN, says=THOUGHT),
    *(
        case(
            f"effort {effort}",
            {"reasoning": {"effort": f"EFFORT_{effort.upper()}"}, **IDS},
            {"reasoning_effort": effort},
            RICH,
        )
        for effort in EFFORTS
    ),
    case(
        "enable_thinking",
        {"template": {"kwargs": {"enable_thinking": False}}, **IDS},
        {"chat_template_kwargs": {"enable_thinking": False}},
        RICH,
    ),
]
