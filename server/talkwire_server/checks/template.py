"""What a request may say to a chat template, whatever the model. Knows no answers."""

import math
from collections.abc import Iterator

from google.protobuf.struct_pb2 import Struct, Value

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import Violation

# Template variables that are the request's own fields or the server's business.
_RESERVED = {
    "add_generation_prompt",
    "chat_template",
    "continue_final_message",
    "conversation",
    "documents",
    "max_length",
    "messages",
    "padding",
    "return_assistant_tokens_mask",
    "return_dict",
    "return_tensors",
    "self",
    "tokenize",
    "tokenizer_kwargs",
    "tools",
    "truncation",
}


def template_violations(request: pb.ChatRequest) -> Iterator[Violation]:
    """Find the faults of what a template is given beside the messages."""
    if not request.HasField("template"):
        return
    template = request.template
    for name in sorted(_RESERVED & template.kwargs.fields.keys()):
        yield Violation(f"template.kwargs.{name}", "is the server's to set", "RESERVED")
    yield from struct_violations(template.kwargs, "template.kwargs")
    if template.continue_final_message:
        last = request.messages[-1] if request.messages and not request.query else None
        if last is None or last.role != pb.ROLE_ASSISTANT:
            yield Violation(
                "template.continue_final_message", "the last message must be the assistant's"
            )
    if template.HasField("truncate_prompt_tokens"):
        yield from _truncation(request)
    for i, document in enumerate(template.documents):
        for name, value in sorted(document.fields.items()):
            if value.WhichOneof("kind") != "string_value":
                yield Violation(f"template.documents[{i}].{name}", "must be a string")


def struct_violations(struct: Struct, path: str) -> Iterator[Violation]:
    """Find the numbers of a Struct that JSON does not have."""
    for name, value in sorted(struct.fields.items()):
        yield from _value(value, f"{path}.{name}")


def _value(value: Value, path: str) -> Iterator[Violation]:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        yield from struct_violations(value.struct_value, path)
    elif kind == "list_value":
        for i, item in enumerate(value.list_value.values):
            yield from _value(item, f"{path}[{i}]")
    elif kind == "number_value" and not math.isfinite(value.number_value):
        yield Violation(path, f"must be finite, got {value.number_value}", "OUT_OF_RANGE")


def _truncation(request: pb.ChatRequest) -> Iterator[Violation]:
    path, most = "template.truncate_prompt_tokens", request.template.truncate_prompt_tokens
    if most < 1 and most != -1:
        yield Violation(path, f"must be >= 1, or -1, got {most}", "OUT_OF_RANGE")
    parts = (part.WhichOneof("part") for message in request.messages for part in message.parts)
    if any(kind not in (None, "text") for kind in parts):
        yield Violation(path, "would cut through images, sound or film")
