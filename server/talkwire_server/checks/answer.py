"""What a request may ask of its answer, whatever the model. Knows no messages."""

from collections.abc import Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks.json_text import json_fault
from talkwire_server.checks.tool import forces_call
from talkwire_server.errors import Violation

_JSON: dict[str, tuple[type, ...]] = {"json_schema": (dict, bool), "structural_tag": (dict,)}


def answer_violations(request: pb.ChatRequest) -> Iterator[Violation]:
    """Find the faults of format, reasoning, number and extras of the answer."""
    if request.HasField("output_format"):
        yield from _format(request.output_format)
        if forces_call(request):
            yield Violation("output_format", "must not be set beside a forced tool call")
        for i, tool in enumerate(request.tools):
            if tool.function.strict:
                text = "must not be set beside output_format, which holds calls, too"
                yield Violation(f"tools[{i}].function.strict", text)
    yield from _reasoning(request.reasoning)
    yield from _include(request)
    if request.HasField("n") and request.n < 1:
        yield Violation("n", f"must be >= 1, got {request.n}", "OUT_OF_RANGE")
    greedy = request.sampling.HasField("temperature") and not request.sampling.temperature
    if request.n > 1 and greedy:
        yield Violation("n", f"must be 1 with temperature 0, got {request.n}", "OUT_OF_RANGE")
    if request.HasField("continuation"):
        yield from _continuation(request)


def _format(wanted: pb.OutputFormat) -> Iterator[Violation]:
    kind = wanted.WhichOneof("format")
    path = f"output_format.{kind}"
    if kind is None:
        yield Violation("output_format", "must have a format", "REQUIRED")
    elif kind == "choice":
        if not wanted.choice.values:
            yield Violation(f"{path}.values", "required", "REQUIRED")
        for i, value in enumerate(wanted.choice.values):
            if not value:
                yield Violation(f"{path}.values[{i}]", "must not be empty", "REQUIRED")
    elif not (value := getattr(wanted, kind)):
        rule = "must be true" if kind == "json_object" else "must not be empty"
        yield Violation(path, rule, "REQUIRED")
    elif kind in _JSON and (fault := json_fault(value, *_JSON[kind])):
        yield Violation(path, fault, "MALFORMED")


def _reasoning(reasoning: pb.Reasoning) -> Iterator[Violation]:
    effort = reasoning.effort
    if effort not in pb.Reasoning.Effort.values():
        yield Violation("reasoning.effort", f"unknown effort {effort}", "UNKNOWN_ENUM")
    if reasoning.HasField("max_tokens") and reasoning.max_tokens < 1:
        text = f"must be >= 1, got {reasoning.max_tokens}"
        yield Violation("reasoning.max_tokens", text, "OUT_OF_RANGE")


def _include(request: pb.ChatRequest) -> Iterator[Violation]:
    include = request.include
    for name in ("logprobs", "prompt_logprobs"):
        if (number := getattr(include, name)) < 0:
            yield Violation(f"include.{name}", f"must be >= 0, got {number}", "OUT_OF_RANGE")
    if request.reasoning.exclude:
        for name in ("logprobs", "token_ids"):
            if name in (field.name for field, _ in include.ListFields()):
                yield Violation(f"include.{name}", "would show the thoughts that are excluded")


def _continuation(request: pb.ChatRequest) -> Iterator[Violation]:
    had = request.continuation
    if not had.token_ids and not had.text:
        yield Violation("continuation", "must have token_ids or text", "REQUIRED")
    if had.token_ids and had.text:
        yield Violation("continuation.text", "must not be set beside token_ids")
    for i, token in enumerate(had.token_ids):
        if token < 0:
            text = f"must be >= 0, got {token}"
            yield Violation(f"continuation.token_ids[{i}]", text, "OUT_OF_RANGE")
    # Of the prompt's log-probabilities the caller has all, and the answer so far is in the prompt.
    for name, wrong in (
        ("n", request.n > 1),
        ("output_format", request.HasField("output_format")),
        ("tool_choice", forces_call(request)),
        ("include.prompt_logprobs", request.include.HasField("prompt_logprobs")),
    ):
        if wrong:
            yield Violation(name, "does not go with a continuation")
