"""Answers of talkwire and of vLLM's HTTP server in one form, so that they can be compared.

A form holds by name what was said: of the `n` answers a list each. Where there is none it holds
`refused`: of ours the status, then all fields, features or models that it names.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2

from support import trailers
from talkwire_proto.v1 import chat_pb2 as pb

Form: TypeAlias = dict[str, Any]

REFUSED: Form = {"refused": ()}


def differing(ours: Form, theirs: Form) -> set[str]:
    """Name what two forms do not share; numbers may differ by 1e-4."""
    if "refused" in ours or "refused" in theirs:
        return set() if "refused" in ours and "refused" in theirs else {"refused"}
    return {
        name for name in ours.keys() | theirs.keys() if not _alike(ours.get(name), theirs.get(name))
    }


def _alike(ours: Any, theirs: Any) -> bool:
    match ours, theirs:
        case float(), float():
            return -1e-4 < ours - theirs < 1e-4
        case (list() | tuple(), list() | tuple()):
            return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    return bool(ours == theirs)


def spelled_alike(ours: Any, theirs: Any) -> bool:
    """Tell whether two are the same but for white space at the ends, and how JSON is spelled."""
    match ours, theirs:
        case str(), str():
            return bool(_value(ours) == _value(theirs))
        case (list() | tuple(), list() | tuple()):
            return len(ours) == len(theirs) and all(map(spelled_alike, ours, theirs))
    return bool(ours == theirs)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text.strip()


def of_refusal(error: grpc.aio.AioRpcError) -> Form:
    """Bring a refusal of ours into form."""
    status = status_pb2.Status.FromString(trailers(error)["grpc-status-details-bin"])
    named = dict.fromkeys(name for detail in status.details for name in _named(detail))
    return {"refused": (error.code().name, *named), "why": error.details()}


def _named(detail: any_pb2.Any) -> Iterator[str]:
    bad, lacking = error_details_pb2.BadRequest(), error_details_pb2.PreconditionFailure()
    missing = error_details_pb2.ResourceInfo()
    if detail.Unpack(bad):
        yield from (violation.field for violation in bad.field_violations)
    if detail.Unpack(lacking):
        for violation in lacking.violations:
            yield violation.subject.partition(" (")[0]  # the rest says why
    if detail.Unpack(missing):
        yield missing.resource_name


def of_response(response: pb.ChatResponse, asked: pb.ChatRequest) -> Form:
    """Bring an answer of ours into form."""
    choices: list[pb.ChatResponse | pb.Choice] = [response, *response.alternatives]
    usage = response.usage
    return {
        "id": response.id if asked.request_id else "",
        "model": response.model,
        "text": [choice.message.text for choice in choices],
        "reasoning": [choice.message.reasoning for choice in choices],
        "tool_calls": [
            [(call.name, call.arguments) for call in choice.message.tool_calls]
            for choice in choices
        ],
        "finish_reason": [
            pb.FinishReason.Name(choice.finish_reason).removeprefix("FINISH_REASON_").lower()
            for choice in choices
        ],
        "stop_match": [_match(choice.stop_match) for choice in choices],
        "logprobs": [[_token(token) for token in choice.logprobs] for choice in choices],
        "token_bytes": [
            [token.token_bytes or token.token.encode() for token in choice.logprobs]
            for choice in choices
        ],
        "token_ids": [list(choice.token_ids) for choice in choices],
        "prompt_logprobs": [_prompt_token(token) for token in response.prompt_logprobs],
        "prompt_token_ids": list(response.prompt_token_ids),
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reasoning_tokens": usage.reasoning_tokens,
    }


def of_completion(body: Mapping[str, Any], asked: pb.ChatRequest) -> Form:
    """Bring an answer of vLLM's into form; it has all ids or none, so keep what we asked for."""
    choices, include = body["choices"], asked.include
    tokens = [(choice["logprobs"] or {}).get("content") or [] for choice in choices]
    usage = body["usage"]
    return {
        "id": body["id"].removeprefix("chatcmpl-") if asked.request_id else "",
        "model": body["model"],
        "text": [choice["message"]["content"] or "" for choice in choices],
        "reasoning": [choice["message"]["reasoning"] or "" for choice in choices],
        "tool_calls": [
            [
                (call["function"]["name"], call["function"]["arguments"])
                for call in choice["message"].get("tool_calls", ())
            ]
            for choice in choices
        ],
        "finish_reason": [choice["finish_reason"] for choice in choices],
        "stop_match": [choice["stop_reason"] for choice in choices],
        "logprobs": [
            [
                (
                    token["token"],
                    token["logprob"],
                    [(other["token"], other["logprob"]) for other in token["top_logprobs"]],
                )
                for token in choice
            ]
            for choice in tokens
        ],
        "token_bytes": [[bytes(token["bytes"]) for token in choice] for choice in tokens],
        "token_ids": [choice["token_ids"] if include.token_ids else [] for choice in choices],
        "prompt_logprobs": [
            _ranked(i, ranked, include.prompt_logprobs)
            for i, ranked in zip(
                body["prompt_token_ids"], body["prompt_logprobs"] or (), strict=False
            )
        ],
        "prompt_token_ids": body["prompt_token_ids"] if include.prompt_token_ids else [],
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "reasoning_tokens": (usage["completion_tokens_details"] or {}).get("reasoning_tokens", 0),
    }


def of_chunks(chunks: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Put the chunks of vLLM's stream together into what it answers when not asked to stream."""
    body: dict[str, Any] = {"prompt_logprobs": None}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        body |= {"id": chunk["id"], "model": chunk["model"]}
        if "usage" in chunk:
            body["usage"] = {"completion_tokens_details": None, **chunk["usage"]}
        if chunk.get("prompt_token_ids"):
            body["prompt_token_ids"] = chunk["prompt_token_ids"]
        for part in chunk["choices"]:
            _add(choices.setdefault(part["index"], _empty()), part)
    body["choices"] = [choice for _, choice in sorted(choices.items())]
    for choice in body["choices"]:
        calls = choice["message"]["tool_calls"]
        choice["message"]["tool_calls"] = [call for _, call in sorted(calls.items())]
    return body


def _empty() -> dict[str, Any]:
    return {
        "message": {"content": "", "reasoning": "", "tool_calls": {}},
        "logprobs": {"content": []},
        "token_ids": [],
        "finish_reason": None,
        "stop_reason": None,
    }


def _add(choice: dict[str, Any], part: Mapping[str, Any]) -> None:
    delta, message = part["delta"], choice["message"]
    for name in ("content", "reasoning"):
        message[name] += delta.get(name) or ""
    for call in delta.get("tool_calls") or ():
        made = message["tool_calls"].setdefault(
            call["index"], {"function": {"name": "", "arguments": ""}}
        )
        for name in ("name", "arguments"):
            made["function"][name] += call.get("function", {}).get(name) or ""
    choice["logprobs"]["content"] += (part.get("logprobs") or {}).get("content") or []
    choice["token_ids"] += part.get("token_ids") or []
    for name in ("finish_reason", "stop_reason"):
        choice[name] = part.get(name, choice[name])


def _match(match: pb.StopMatch) -> str | int | None:
    kind = match.WhichOneof("match")
    return getattr(match, kind) if kind else None


def _token(token: pb.TokenLogprob) -> tuple[str, float, Sequence[tuple[str, float]]]:
    others = [(other.token, other.logprob) for other in token.alternatives]
    return token.token, token.logprob, others


def _prompt_token(token: pb.TokenLogprob) -> Any:
    if not token.HasField("logprob"):
        return token.token_id, None
    others = [(other.token_id, other.token, other.logprob) for other in token.alternatives]
    return token.token_id, (token.token, token.logprob, token.rank), others


def _ranked(token_id: int, ranked: Mapping[str, Any] | None, most: int) -> Any:
    if ranked is None:
        return token_id, None
    own = ranked[str(token_id)]
    best = sorted(
        (other["rank"], int(i), other["decoded_token"], other["logprob"])
        for i, other in ranked.items()
        if other["rank"] <= most
    )
    return (
        token_id,
        (own["decoded_token"], own["logprob"], own["rank"]),
        [(i, text, logprob) for _, i, text, logprob in best],
    )


def events(stream: str) -> Iterable[Mapping[str, Any]]:
    """Read the events of a stream over HTTP, but for the last, which only says that it was."""
    for line in stream.splitlines():
        data = line.removeprefix("data: ")
        if data and data != "[DONE]":
            yield json.loads(data)
