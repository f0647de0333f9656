"""What form an answer is to have, what it is to tell, and the engine's own options: for both."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from conformance.cases import IDS, PLAIN, Case, Flags, Why, case
from conformance.sampling import DRAW

WORD = {"type": "object", "properties": {"b": {"enum": ["x"]}, "a": {"type": "boolean"}}}
CITY = {**WORD, "required": ["b", "a"], "additionalProperties": False}
LARK = 'start: "a" ("b" | "c")'
EBNF = 'root ::= "a" ("b" | "c")'
TAG = json.dumps({"type": "structural_tag", "format": {"type": "const_string", "value": "hey"}})


def formed(name: str, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Case:
    wanted = {"output_format": ours, "sampling": {"max_tokens": 20}}
    return case(name, wanted, {**theirs, "max_completion_tokens": 20})


FORMS = [
    formed(
        "json_schema",
        {"json_schema": json.dumps(CITY)},
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": CITY},
            }
        },
    ),
    formed("json_object", {"json_object": True}, {"response_format": {"type": "json_object"}}),
    formed(
        "regex", {"regex": "[A-Z]{2}-[0-9]"}, {"structured_outputs": {"regex": "[A-Z]{2}-[0-9]"}}
    ),
    formed(
        "choice",
        {"choice": {"values": ["London", 'P"ris']}},
        {"structured_outputs": {"choice": ["London", 'P"ris']}},
    ),
    formed("grammar", {"grammar": EBNF}, {"structured_outputs": {"grammar": EBNF}}),
    formed("grammar of Lark", {"grammar": LARK}, {"structured_outputs": {"grammar": LARK}}),
    formed(
        "structural_tag", {"structural_tag": TAG}, {"structured_outputs": {"structural_tag": TAG}}
    ),
]

LOGPROBS = {"logprobs": True, "top_logprobs": 3}
TOLD = [
    case("logprobs 0", {"include": {"logprobs": 0}}, {"logprobs": True, "top_logprobs": 0}),
    case("logprobs", {"include": {"logprobs": 3}}, LOGPROBS),
    case(
        "logprobs of drawn tokens",
        {"include": {"logprobs": 3}, "sampling": DRAW},
        {**LOGPROBS, **DRAW},
        PLAIN,
        {"logprobs": Why.DRAWN},
    ),
    case(
        "logprobs of n drawn answers",
        {"include": {"logprobs": 0}, "n": 2, "sampling": DRAW},
        {"logprobs": True, "top_logprobs": 0, "n": 2, **DRAW},
    ),
    case(
        "logprobs of half characters",
        {"include": {"logprobs": 0}, "output_format": {"regex": "\U0001f99c\u9c3b"}},
        {
            "logprobs": True,
            "top_logprobs": 0,
            "structured_outputs": {"regex": "\U0001f99c\u9c3b"},
        },
        PLAIN,
        {"token_bytes": Why.BYTES},
    ),
    case(
        "logprobs and a stop word",
        {"include": {"logprobs": 1, "token_ids": True}, "sampling": {"stop": ["France is"]}},
        {"logprobs": True, "top_logprobs": 1, "stop": ["France is"]},
    ),
    case(
        "prompt_logprobs 0",
        {"include": {"prompt_logprobs": 0}},
        {"prompt_logprobs": 0},
        PLAIN,
        {"stream.prompt_logprobs": Why.NO_STREAM},
    ),
    case(
        "prompt_logprobs",
        {"include": {"prompt_logprobs": 2}},
        {"prompt_logprobs": 2},
        PLAIN,
        {"stream.refused": Why.NO_STREAM},
    ),
    case("token_ids", {"include": {"token_ids": True}}),
    case("prompt_token_ids", IDS),
]


def option(
    name: str,
    options: Mapping[str, Any],
    sampling: Mapping[str, Any],
    allowed: Sequence[str] = (),
    **more: Any,
) -> Case:
    """Make a case of options that have no field of ours."""
    ours = {"engine_options": options, "sampling": sampling}
    flags = Flags(engine_options=tuple(allowed))
    return case(f"engine option {name}", ours, {**options, **sampling}, flags, **more)


REPETITION = {"repetition_detection": {"max_pattern_size": 4, "min_count": 3}}
SPACES = {"spaces_between_special_tokens": False}
OPTIONS = [
    option("repetition_detection", REPETITION, {"allowed_token_ids": [4649]}, list(REPETITION)),
    option(
        "spaces_between_special_tokens",
        SPACES,
        {"skip_special_tokens": False, "allowed_token_ids": [1, 4649]},
        list(SPACES),
    ),
    option(
        "that is not allowed",
        REPETITION,
        {},
        differs={"refused": Why.OPTION},
        refusal=("FAILED_PRECONDITION", "engine_options.repetition_detection"),
    ),
]
