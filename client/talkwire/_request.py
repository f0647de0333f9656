"""From Python arguments to a ChatRequest. Does no I/O; the server does the checking of values."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from talkwire_proto.v1 import chat_pb2 as pb

MessageLike: TypeAlias = pb.Message | Mapping[str, Any]
"""A message, or a mapping with `role` ("user", "assistant", ...), `text` (or `content`), `name`."""


class SamplingOptions(TypedDict, total=False):
    """Overrides of the model's own sampling; see `talkwire.v1.Sampling` for units and ranges."""

    temperature: float
    top_p: float
    top_k: int
    min_p: float
    max_tokens: int
    min_tokens: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    include_stop: bool
    ignore_eos: bool
    seed: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    logit_bias: Mapping[int, float]
    bad_words: Sequence[str]
    allowed_token_ids: Sequence[int]
    skip_special_tokens: bool


class ChatOptions(SamplingOptions, total=False):
    """What a chat may say besides its query; what is left out is the server's to decide.

    Keys:
        messages: The conversation so far, oldest first.
        system: System prompt; the empty string asks for none.
        model: A served model's or adapter's name.
        template: Variables of the model's chat template.
        continue_final_message: Go on with the last message, the assistant's.
        cache_salt: Share prefix-cache entries only with requests of the same salt.
        request_id: An id of the caller's own, 1 to 128 of [A-Za-z0-9._:-].
    """

    messages: Iterable[MessageLike]
    system: str
    model: str
    template: Mapping[str, Any]
    continue_final_message: bool
    cache_salt: str
    request_id: str


class CallOptions(ChatOptions, total=False):
    """A chat's options and those of its call.

    Keys:
        timeout: Seconds until the call fails with `Timeout`; `math.inf` for no limit.
        metadata: More gRPC metadata.
    """

    timeout: float
    metadata: Mapping[str, str]


class CallSettings(TypedDict):
    """The part of `CallOptions` that is not in the request."""

    timeout: float | None
    metadata: Mapping[str, str] | None


_SAMPLING = SamplingOptions.__optional_keys__
_KNOWN = CallOptions.__optional_keys__
_ROLES = {name.removeprefix("ROLE_").lower(): value for name, value in pb.Role.items()}


def split(query: str, options: Mapping[str, Any]) -> tuple[pb.ChatRequest, CallSettings]:
    """Build the request of `options`, and what of them concerns the call alone."""
    call = CallSettings(timeout=options.get("timeout"), metadata=options.get("metadata"))
    return build(query, options), call


def build(query: str, options: Mapping[str, Any]) -> pb.ChatRequest:
    """Build the request of `query` and `options`, whose keys are those of `ChatOptions`.

    Raises:
        TypeError: An option is not known; names every such one.
        ValueError: A message is not one; names every fault.

    """
    if unknown := sorted(options.keys() - _KNOWN):
        msg = f"unknown options: {', '.join(unknown)}"
        raise TypeError(msg)
    request = pb.ChatRequest(query=query, messages=messages(options.get("messages", ())))
    for name in ("system", "model", "cache_salt", "request_id"):
        if name in options:
            setattr(request, name, options[name])
    if sampling := {name: options[name] for name in _SAMPLING & options.keys()}:
        if isinstance(stop := sampling.get("stop"), str):
            sampling["stop"] = [stop]
        request.sampling.CopyFrom(pb.Sampling(**sampling))
    if "template" in options:
        request.template.kwargs.update(options["template"])
    if options.get("continue_final_message"):
        request.template.continue_final_message = True
    return request


def messages(items: Iterable[MessageLike]) -> list[pb.Message]:
    """Make messages of what stands for them."""
    made, faults = [], []
    for i, item in enumerate(items):
        try:
            made.append(item if isinstance(item, pb.Message) else _message(item))
        except ValueError as error:
            faults.append(f"messages[{i}]: {error}")
    if faults:
        raise ValueError("; ".join(faults))
    return made


def _message(item: Mapping[str, Any]) -> pb.Message:
    role, text = item.get("role", "user"), item.get("text", item.get("content", ""))
    faults = [f"unknown key {key!r}" for key in item.keys() - {"role", "text", "content", "name"}]
    if role not in _ROLES:
        faults.append(f"unknown role {role!r}")
    if not isinstance(text, str):
        faults.append(f"text must be a string, not {type(text).__name__}")
    if faults:
        raise ValueError(", ".join(sorted(faults)))
    return pb.Message(role=_ROLES[role], text=text, name=item.get("name", ""))
