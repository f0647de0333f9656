"""How much a request may hold. Looks at sizes, before anything walks what there is."""

from collections.abc import Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import Violation
from talkwire_server.settings.limits import LimitSettings

_GRAMMARS = "regex", "grammar", "structural_tag"


def limit_violations(request: pb.ChatRequest, limits: LimitSettings) -> Iterator[Violation]:
    """Find the lists that are too long, and the words."""
    sampling = request.sampling
    for path, found, most, unit in (
        ("tools", request.tools, limits.max_tools, "tools"),
        ("template.documents", request.template.documents, limits.max_tools, "documents"),
        ("sampling.stop", sampling.stop, limits.max_words, "words"),
        ("sampling.bad_words", sampling.bad_words, limits.max_words, "words"),
        ("sampling.logit_bias", sampling.logit_bias, limits.max_token_ids, "entries"),
        ("sampling.stop_token_ids", sampling.stop_token_ids, limits.max_token_ids, "ids"),
        ("sampling.allowed_token_ids", sampling.allowed_token_ids, limits.max_token_ids, "ids"),
        ("continuation.token_ids", request.continuation.token_ids, limits.max_token_ids, "ids"),
    ):
        if len(found) > most:
            yield _more(path, most, unit, len(found))
    for name in ("stop", "bad_words"):
        for i, word in enumerate(getattr(sampling, name)[: limits.max_words]):
            if len(word) > limits.max_word_chars:
                path = f"sampling.{name}[{i}]"
                yield _more(path, limits.max_word_chars, "characters", len(word))
    for path, text in _names(request):
        if len(text) > limits.max_word_chars:
            yield _more(path, limits.max_word_chars, "characters", len(text))
    choices = sum(map(len, request.output_format.choice.values))
    if choices > limits.max_schema_chars:
        path = "output_format.choice.values"
        yield _more(path, limits.max_schema_chars, "characters", choices)
    yield from _schemas(request, limits)


def _names(request: pb.ChatRequest) -> Iterator[tuple[str, str]]:
    for i, message in enumerate(request.messages):
        yield f"messages[{i}].name", message.name
        yield f"messages[{i}].tool_call_id", message.tool_call_id
        for k, call in enumerate(message.tool_calls):
            yield f"messages[{i}].tool_calls[{k}].id", call.id
            yield f"messages[{i}].tool_calls[{k}].name", call.name


def _schemas(request: pb.ChatRequest, limits: LimitSettings) -> Iterator[Violation]:
    """Find JSON and grammars that are too long, before anything reads them."""
    schemas = {f"output_format.{name}": getattr(request.output_format, name) for name in _GRAMMARS}
    schemas["output_format.json_schema"] = request.output_format.json_schema
    for i, tool in enumerate(request.tools[: limits.max_tools]):
        schemas[f"tools[{i}].function.parameters"] = tool.function.parameters
    for path, text in schemas.items():
        if len(text) > limits.max_schema_chars:
            yield _more(path, limits.max_schema_chars, "characters", len(text))
    calls = [call for message in request.messages for call in message.tool_calls]
    total = sum(len(tool.function.parameters) for tool in request.tools)
    total += sum(len(call.arguments) for call in calls)
    if total > limits.max_json_chars:
        path = "messages" if calls else "tools"
        text = f"bring the JSON of the request to more than {limits.max_json_chars} characters"
        yield Violation(path, text, "OUT_OF_RANGE")


def _more(path: str, most: int, unit: str, found: int) -> Violation:
    return Violation(path, f"must have at most {most} {unit}, got {found}", "OUT_OF_RANGE")
