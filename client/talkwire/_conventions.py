"""What OpenTelemetry calls what is known of a chat: the attributes of its span.

Client and server share it. Imports no OpenTelemetry, and names nothing that anybody wrote.
Sources, in the spelling of opentelemetry-semantic-conventions 0.66:
https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/ and .../rpc/grpc/.
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

import grpc

from talkwire._answer import finish_reason
from talkwire_proto.v1 import chat_pb2 as pb

Attributes: TypeAlias = dict[str, str | bool | int | float | tuple[str, ...]]

OPERATION = "chat"
REASON = "talkwire.reason"
"""Why a call was refused or failed: a name of `ErrorReason`, without its prefix."""

_SERVICE = pb.DESCRIPTOR.services_by_name["ChatService"].full_name

# Of Sampling, and how the convention counts them.
_SAMPLING: Mapping[str, type[int] | type[float]] = {
    "frequency_penalty": float,
    "max_tokens": int,
    "presence_penalty": float,
    "seed": int,
    "temperature": float,
    "top_k": float,
    "top_p": float,
}


def called(rpc: str) -> Attributes:
    """Say what is known of a call before its request is looked at."""
    attributes: Attributes = {
        "rpc.system.name": "grpc",
        "rpc.method": f"{_SERVICE}/{rpc}",
        "gen_ai.operation.name": OPERATION,
        "gen_ai.provider.name": "talkwire",
    }
    if rpc != "Chat":
        attributes["gen_ai.request.stream"] = True
    return attributes


def asked(request: pb.ChatRequest, model: str) -> Attributes:
    """Say what is asked, of which model, but for texts."""
    sampling = request.sampling
    attributes: Attributes = {
        f"gen_ai.request.{name}": kind(getattr(sampling, name))
        for name, kind in _SAMPLING.items()
        if sampling.HasField(name)  # type: ignore[arg-type]  # one of its names
    }
    if request.n > 1:
        attributes["gen_ai.request.choice.count"] = request.n
    if model:
        attributes["gen_ai.request.model"] = model
    return attributes


def answered(
    model: str, usage: pb.Usage, reasons: Iterable[pb.FinishReason.ValueType]
) -> Attributes:
    """Say what an answer that came to its end took, and why each of its choices ended."""
    names = tuple(finish_reason(reason) for reason in reasons)
    attributes: Attributes = {
        "gen_ai.response.model": model,
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    if names:
        attributes["gen_ai.response.finish_reasons"] = names
    return attributes


def ended(code: grpc.StatusCode, reason: str, id: str, *, is_error: bool) -> Attributes:
    """Say how a call ended, why, and under which id the server's log has it, if that is known."""
    attributes: Attributes = {"rpc.response.status_code": code.name}
    if is_error:
        attributes["error.type"] = code.name
    if id:
        attributes["gen_ai.response.id"] = id
    if reason:
        attributes[REASON] = reason
    return attributes
