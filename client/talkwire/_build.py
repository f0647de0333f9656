"""From a query and options to a ChatRequest. Does no I/O, and leaves ranges to the server."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from talkwire._answer import Answer
from talkwire._fields import Faults, pairs, put, put_each, put_json
from talkwire._messages import Query, messages, user
from talkwire._output import output_format
from talkwire._request import CallSettings, ChatOptions, SamplingOptions
from talkwire._tools import choice, tools
from talkwire_proto.v1 import chat_pb2 as pb

_KNOWN = ChatOptions.__optional_keys__
_OF_THE_CALL = ("timeout", "metadata", "resume", "within", "sticky")
_SAMPLING = SamplingOptions.__optional_keys__
_EFFORTS = {
    name.removeprefix("EFFORT_").lower(): value
    for name, value in pb.Reasoning.Effort.items()
    if value
}


def split(query: Query, options: Mapping[str, Any]) -> tuple[pb.ChatRequest, CallSettings]:
    """Build the request of `options`, and what of them concerns the call."""
    options = dict(options)
    timeout, metadata, resume, within, sticky = (options.pop(name, None) for name in _OF_THE_CALL)
    request = build(query, options)
    call = CallSettings(
        timeout=timeout,
        metadata=metadata,
        output=options.get("output"),
        begun=_begun(request, options.get("continuation")),
        resume=resume,
        within=within,
        sticky=sticky,
    )
    return request, call


def build(query: Query, options: Mapping[str, Any]) -> pb.ChatRequest:
    """Build the request of `query` and `options`, whose keys are those of `ChatOptions`.

    An option that is None is left out, as protobuf does it.

    Raises:
        TypeError: An option is not known; names every such one.
        ValueError: A value does not fit; names every fault.
        ImportError: A function or type stands for its schema, and pydantic is not installed.

    """
    if unknown := sorted(options.keys() - _KNOWN):
        msg = f"unknown options: {', '.join(unknown)}"
        raise TypeError(msg)
    request, faults = pb.ChatRequest(), Faults()
    for name, value in options.items():
        if value is not None:
            with faults.at(name):
                _place(request, name, value, faults)
    with faults.at("query"):
        if isinstance(query, str):
            request.query = query
        else:
            request.messages.append(user(query, faults))
    faults.check()
    return request


def _place(request: pb.ChatRequest, name: str, value: Any, faults: Faults) -> None:
    """Put the value of an option where the contract has its place."""
    match name:
        case "stop" if isinstance(value, str):
            request.sampling.stop.append(value)
        case _ if name in _SAMPLING:
            put(request.sampling, name, value)
        case "messages":
            request.messages.extend(messages(value, faults))
        case "tools":
            request.tools.extend(tools(value, faults))
        case "tool_choice":
            request.tool_choice.CopyFrom(choice(value))
        case "output":
            request.output_format.CopyFrom(output_format(value))
        case "reasoning":
            _reasoning(request.reasoning, value, faults)
        case "include":
            put_each(request.include, value, faults)
        case "template":
            put_json(request.template.kwargs, value)
        case "continue_final_message" | "truncate_prompt_tokens":
            put(request.template, name, value)
        case "documents":
            for i, document in enumerate(value):
                with faults.at(f"[{i}]"):
                    put_json(request.template.documents.add(), document)
        case "time_limit":
            request.time_limit.FromTimedelta(_span(value))
        case "continuation":
            _continue(request, value)
        case "chunking":
            delay = {name: _span(v) for name, v in pairs(value) if name == "max_delay"}
            put_each(request.chunking, {**value, **delay}, faults)
        case "engine_options":
            put_json(request.engine_options, value)
        case _:
            put(request, name, value)


def _span(seconds: Any) -> timedelta:
    return seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)


def _reasoning(reasoning: pb.Reasoning, value: Any, faults: Faults) -> None:
    controls = dict(value) if isinstance(value, Mapping) else {"effort": value}
    if "effort" in controls:
        effort = controls["effort"]
        if effort not in _EFFORTS:
            msg = f"unknown effort {effort!r}, must be one of {', '.join(_EFFORTS)}"
            raise ValueError(msg)
        controls["effort"] = _EFFORTS[effort]
    put_each(reasoning, controls, faults)


def _continue(request: pb.ChatRequest, value: Any) -> None:
    had = pb.Continuation()
    if isinstance(value, pb.Continuation):
        request.continuation.CopyFrom(value)
    elif not isinstance(value, Answer):
        put(had, "token_ids", value)
    elif value.token_ids:
        had.token_ids.extend(value.token_ids)
    elif value.reasoning or value.tool_calls:
        raise ValueError('thoughts and calls go on by token ids: ask with include={"token_ids": 1}')
    else:
        had.text = value.text
    if had.ByteSize():  # else nothing came: it begins anew
        request.continuation.CopyFrom(had)


def _begun(request: pb.ChatRequest, value: Any) -> Answer | None:
    """Return the answer that a request goes on with, for the client to hold the whole.

    The whole has token ids for all of its text, or none: they are what it would go on from next.
    """
    if not isinstance(value, Answer) or not request.HasField("continuation"):
        return None
    if value.token_ids:
        request.include.token_ids = True
    elif request.include.token_ids:
        raise ValueError("continuation: has no token ids, so those of the rest are of no use")
    return value
