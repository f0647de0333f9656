"""What a chat may say: the options of the clients' methods. Builds nothing; `_build.py` does."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Literal, TypeAlias, TypedDict

from talkwire._answer import Answer
from talkwire._messages import MessageLike
from talkwire._options import Incoming
from talkwire._tools import ToolLike
from talkwire_proto.v1 import chat_pb2 as pb

Effort: TypeAlias = Literal["none", "minimal", "low", "medium", "high", "max"]
"""How much a model shall think before it answers; "none" where it can be told not to."""


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


class ReasoningOptions(TypedDict, total=False):
    """Controls of a model that thinks.

    Keys:
        effort: How much it shall think.
        max_tokens: Tokens of thought before it must answer.
        exclude: Think, but do not send the thoughts.
    """

    effort: Effort
    max_tokens: int
    exclude: bool


class IncludeOptions(TypedDict, total=False):
    """What an answer shall carry besides text.

    Keys:
        logprobs: Log-probabilities of its tokens, and of this many alternatives to each.
        prompt_logprobs: The same of the prompt.
        token_ids: Ids of its tokens.
        prompt_token_ids: Ids of the prompt's.
    """

    logprobs: int
    prompt_logprobs: int
    token_ids: bool
    prompt_token_ids: bool


class ChunkingOptions(TypedDict, total=False):
    """How an answer is cut into chunks; its first text comes at once.

    Keys:
        max_delay: Seconds for which the server may gather what comes.
        min_chars: Characters that are enough before that.
    """

    max_delay: float | timedelta
    min_chars: int


class ChatOptions(SamplingOptions, total=False):
    """What a chat may say besides its query; what is left out is the server's to decide.

    Keys:
        messages: The conversation so far, oldest first.
        system: System prompt; the empty string asks for none.
        model: A served model's or adapter's name.
        tools: What the model may call. `run_tools` calls it; `chat` and `stream` only tell of it.
        tool_choice: "auto", "none", "required", or the name of the one function to call.
        parallel_tool_calls: Whether an answer may hold more than one call.
        output: What the text shall be, and `Answer.parsed` will: a type that pydantic knows (its
            own models, dataclasses, TypedDicts, `list[int]`, ...; needs `talkwire[pydantic]`),
            `dict` for any JSON object, a JSON Schema (JSON text or what it says; its order of keys
            is the answer's), or a `Regex`, `Choice`, `Grammar` or `StructuralTag`.
        reasoning: How much to think, or all of the controls.
        include: What the answer shall carry besides text.
        template: Variables of the model's chat template.
        continue_final_message: Go on with the last message, the assistant's.
        documents: For templates that retrieve from documents.
        truncate_prompt_tokens: Keep at most this many of the prompt's last tokens; -1: as many
            as the context holds.
        n: How many answers; see `Answer.alternatives`.
        priority: Lower runs earlier, where the server schedules by priority.
        cache_salt: Share prefix-cache entries only with requests of the same salt.
        request_id: An id of the caller's own, 1 to 128 of [A-Za-z0-9._:-].
        time_limit: Seconds after which the answer ends where it is, whole and well ("time_limit").
        continuation: An answer that broke off, such as `Error.partial`: go on from there. The new
            answer holds the whole, and may break off and go on again; chunks are only the new
            ones. Exact with token ids, which `include={"token_ids": True}` brings, and which are
            then asked for again. Of token ids or a `pb.Continuation` only the rest is answered.
            None, and what is empty, begin anew.
        chunking: Have fewer, larger chunks. Unset: each as soon as it is there, but several tokens
            in one where very many come.
        engine_options: The engine's own, where the server's operator allows them.
    """

    messages: Iterable[MessageLike]
    system: str
    model: str
    tools: Iterable[ToolLike]
    tool_choice: str
    parallel_tool_calls: bool
    output: object
    reasoning: Effort | ReasoningOptions
    include: IncludeOptions
    template: Mapping[str, object]
    continue_final_message: bool
    documents: Iterable[Mapping[str, object]]
    truncate_prompt_tokens: int
    n: int
    priority: int
    cache_salt: str
    request_id: str
    time_limit: float | timedelta
    continuation: Answer | pb.Continuation | Sequence[int] | None
    chunking: ChunkingOptions
    engine_options: Mapping[str, object]


class CallOptions(ChatOptions, total=False):
    """A chat's options and those of its call.

    Keys:
        timeout: Seconds until the call fails with `Timeout`; `math.inf` for no limit.
        metadata: More gRPC metadata.
        resume: Where the server or the connection is lost amid the answer, go on by itself, at
            another address or when there is a server again, all within `timeout`, but not
            after ten calls in a row that were taken and lost without a new token. It asks for
            token ids, and you get them, too. Not with `n`, `output`, a forced tool,
            prompt_logprobs or excluded thoughts.
        within: The context of the gRPC handler that calls: the answer ends with the incoming call
            and not after its deadline, and has its traceparent and tracestate.
        sticky: Of several servers, go to that of the call's session while it can take the call,
            so that it finds the prompt's beginning in its prefix cache. The session is named by
            this, or with True by what the conversation begins with: model, cache_salt, system and
            first message. Proxies get the name as metadata `session_id`, unless with `multiplex`.
            A `Conversation` is sticky unless it is told otherwise.
    """

    timeout: float
    metadata: Mapping[str, str]
    resume: bool
    within: Incoming
    sticky: bool | str


class CallSettings(TypedDict):
    """The part of `CallOptions` that is not in the request, or not all of it."""

    timeout: float | None
    metadata: Mapping[str, str] | None
    output: object
    begun: Answer | None
    resume: bool | None
    within: Incoming | None
    sticky: bool | str | None
