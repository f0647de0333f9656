"""What of a request the echo engine honours. Knows no values but those that it must refuse."""

from collections.abc import Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import Support, beyond, fields
from talkwire_server.echo.script import thinks

_MEDIA = fields("data mime_type")

SUPPORTED: Support = {
    "query": {},
    "messages": {
        "role": {},
        "text": {},
        "parts": {"text": {}, "image": _MEDIA, "audio": _MEDIA, "video": _MEDIA},
        "reasoning": {},
        "tool_calls": fields("id name arguments"),
        "tool_call_id": {},
        "name": {},
    },
    "system": {},
    "model": {},
    "sampling": fields(
        "temperature top_p top_k min_p max_tokens min_tokens stop include_stop ignore_eos seed"
        " presence_penalty frequency_penalty repetition_penalty logit_bias skip_special_tokens"
    ),
    "tools": {"function": fields("name description parameters strict")},
    "tool_choice": fields("mode function"),
    "parallel_tool_calls": {},
    "output_format": {"json_schema": {}, "json_object": {}, "choice": fields("values")},
    "reasoning": fields("effort max_tokens exclude"),
    "include": fields("logprobs prompt_logprobs token_ids prompt_token_ids"),
    "template": {"kwargs": None, "continue_final_message": {}},
    "n": {},
    "priority": {},
    "cache_salt": {},
    "request_id": {},
    "time_limit": None,
    "continuation": fields("token_ids text"),
    "chunking": {**fields("min_chars"), "max_delay": None},
}


def unsupported(request: pb.ChatRequest) -> Iterator[str]:
    """Name what a request has and the echo engine has not."""
    yield from beyond(request, SUPPORTED)
    if request.priority:
        yield "priority"
    if request.continuation.text and (request.tools or thinks(request)):
        yield "continuation.text"
