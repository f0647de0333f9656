"""From a ChatRequest to vLLM's own request. Knows their two vocabularies, and no model."""

import json
import math
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import Support, fields, forces_call, json_fault
from talkwire_server.conversation import ROLE_NAMES, conversation

_MEDIA = fields("data uri cache_id mime_type cache_key")
# What of a request is honoured. Named one by one: a new field of the contract is refused until it
# is here.
SUPPORTED: Support = {
    **fields("query system model parallel_tool_calls n priority cache_salt request_id"),
    "messages": {
        **fields("role text reasoning tool_call_id name"),
        "parts": {**fields("text"), "image": _MEDIA, "audio": _MEDIA, "video": _MEDIA},
        "tool_calls": fields("id name arguments"),
    },
    "sampling": fields(
        "temperature top_p top_k min_p max_tokens min_tokens stop stop_token_ids include_stop "
        "ignore_eos seed presence_penalty frequency_penalty repetition_penalty logit_bias "
        "bad_words allowed_token_ids skip_special_tokens"
    ),
    "tools": {"function": fields("name description parameters strict")},
    "tool_choice": fields("mode function"),
    "output_format": {
        **fields("json_schema json_object regex grammar structural_tag"),
        "choice": fields("values"),
    },
    "reasoning": fields("effort max_tokens exclude"),
    "include": fields("logprobs prompt_logprobs token_ids prompt_token_ids"),
    "template": {
        **fields("continue_final_message truncate_prompt_tokens"),
        "kwargs": None,
        "documents": None,
    },
    "time_limit": None,
    "continuation": fields("token_ids text"),
    "chunking": {**fields("min_chars"), "max_delay": None},
    "engine_options": None,
}

SPELLED = {
    "max_tokens": "max_completion_tokens",
    "include_stop": "include_stop_str_in_output",
}
"""Names of `Sampling` that vLLM's request spells differently."""

_CHOICES = {
    pb.ToolChoice.MODE_UNSPECIFIED: "auto",
    pb.ToolChoice.MODE_AUTO: "auto",
    pb.ToolChoice.MODE_NONE: "none",
    pb.ToolChoice.MODE_REQUIRED: "required",
}
_FORMATS = {"json_schema": "json"}  # as StructuredOutputsParams spells them
_MIME = {"image": "image/png", "audio": "audio/wav", "video": "video/mp4"}


def vllm_request(request: pb.ChatRequest, default_system: str) -> dict[str, Any]:
    """Spell a request as arguments of vLLM's ChatCompletionRequest.

    Its media hold their bytes (see `media`). What is left out keeps vLLM's default.
    """
    made: dict[str, Any] = {
        "messages": [_message(message) for message in conversation(request, default_system)],
        **plain(request.engine_options),
        **_sampling(request.sampling),
        **_tools(request),
        **_reasoning(request.reasoning),
        **_template(request.template),
    }
    if request.output_format.WhichOneof("format"):
        made["structured_outputs"] = structured_outputs(request.output_format)
    if request.include.HasField("logprobs"):
        made |= {"logprobs": True, "top_logprobs": request.include.logprobs}
    if request.include.HasField("prompt_logprobs"):
        made["prompt_logprobs"] = request.include.prompt_logprobs
    if request.HasField("n"):
        made["n"] = request.n
    if request.cache_salt:
        made["cache_salt"] = request.cache_salt
    return made


def structured_outputs(wanted: pb.OutputFormat) -> dict[str, Any]:
    """Spell the format of an answer as arguments of vLLM's StructuredOutputsParams."""
    kind = wanted.WhichOneof("format")
    assert kind, "the format is checked"
    value = getattr(wanted, kind)
    return {_FORMATS.get(kind, kind): list(value.values) if kind == "choice" else value}


def may_call(request: pb.ChatRequest) -> bool:
    """Tell whether the answer may hold tool calls."""
    return bool(request.tools) and request.tool_choice.mode != pb.ToolChoice.MODE_NONE


def plain(struct: Message) -> dict[str, Any]:
    """Python's own types of a Struct, in which every number is a double."""
    made: dict[str, Any] = _integers(json_format.MessageToDict(struct))
    return made


def _message(message: pb.Message) -> dict[str, Any]:
    content = [_part(part) for part in message.parts] or message.text
    made: dict[str, Any] = {"role": ROLE_NAMES[message.role], "content": content}
    for name in ("name", "reasoning", "tool_call_id"):
        if value := getattr(message, name):
            made[name] = value
    if message.tool_calls:
        made["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": _arguments(call)},
            }
            for call in message.tool_calls
        ]
    return made


def _arguments(call: pb.ToolCall) -> str:
    # Templates want an object, and what a model once wrote wrong must not end the conversation.
    return "{}" if json_fault(call.arguments, dict) else call.arguments


def _part(part: pb.Part) -> dict[str, Any]:
    kind = part.WhichOneof("part")
    if kind is None or kind == "text":
        return {"type": "text", "text": part.text}
    media: pb.Media = getattr(part, kind)
    data = b64encode(media.data).decode()
    url = f"data:{media.mime_type or _MIME[kind]};base64,{data}"
    return {"type": f"{kind}_url", f"{kind}_url": {"url": url}}


def _sampling(sampling: pb.Sampling) -> dict[str, Any]:
    made = {}
    for field, value in sampling.ListFields():
        if field.name == "logit_bias":
            value = {str(token): bias for token, bias in value.items()}
        elif not isinstance(value, (bool, int, float)):
            value = list(value)
        made[SPELLED.get(field.name, field.name)] = value
    return made


def _tools(request: pb.ChatRequest) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice
    made: dict[str, Any] = {
        "tools": [_tool(tool.function, forces_call(request)) for tool in request.tools],
        "tool_choice": {"type": "function", "function": {"name": choice.function}}
        if choice.function
        else _CHOICES[choice.mode],
    }
    if request.HasField("parallel_tool_calls"):
        made["parallel_tool_calls"] = request.parallel_tool_calls
    return made


def _tool(function: pb.Function, forced: bool) -> dict[str, Any]:
    schema = function.parameters or '{"type": "object", "properties": {}}'
    made: dict[str, Any] = {"name": function.name, "parameters": json.loads(schema)}
    if function.description:
        made["description"] = function.description
    if function.HasField("strict") or forced:  # what must be called shall be callable
        made["strict"] = function.strict if function.HasField("strict") else True
    return {"type": "function", "function": made}


def _reasoning(reasoning: pb.Reasoning) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if reasoning.effort:
        name = pb.Reasoning.Effort.Name(reasoning.effort)
        made["reasoning_effort"] = name.removeprefix("EFFORT_").lower()
    if reasoning.HasField("max_tokens"):
        made["thinking_token_budget"] = reasoning.max_tokens
    return made


def _template(template: pb.Template) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if template.HasField("kwargs"):
        made["chat_template_kwargs"] = plain(template.kwargs)
    if template.continue_final_message:
        made |= {"continue_final_message": True, "add_generation_prompt": False}
    if template.documents:
        made["documents"] = [plain(document) for document in template.documents]
    if template.HasField("truncate_prompt_tokens"):
        made |= {
            "truncate_prompt_tokens": template.truncate_prompt_tokens,
            "truncation_side": "left",
        }
    return made


def _integers(value: Any) -> Any:
    match value:
        case Mapping():
            return {key: _integers(item) for key, item in value.items()}
        case list():
            return [_integers(item) for item in value]
        case float() if math.isfinite(value) and value == int(value):
            return int(value)
    return value
