"""vLLM's exceptions, and the one table that makes them ours."""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from jinja2 import TemplateError
from pydantic import ValidationError
from vllm.exceptions import GracefulHTTPError, VLLMClientError, VLLMValidationError
from vllm.v1.engine.exceptions import EngineDeadError

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import (
    CallError,
    EngineDead,
    InvalidRequest,
    QueueFull,
    UnsupportedFeature,
    Violation,
)
from talkwire_server.logs import Seldom

log = logging.getLogger("talkwire")

_seldom = Seldom()

# vLLM's parameter: the contract's field. What is missing here is named "request".
_FIELDS: Mapping[str, str] = {
    **{field.name: f"sampling.{field.name}" for field in pb.Sampling.DESCRIPTOR.fields},
    "max_completion_tokens": "sampling.max_tokens",
    "messages": "messages",
    "n": "n",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "tool_choice.function": "tool_choice.function",
    "response_format": "output_format",
    "structured_outputs": "output_format",
    "reasoning_effort": "reasoning.effort",
    "thinking_token_budget": "reasoning.max_tokens",
    "logprobs": "include.logprobs",
    "top_logprobs": "include.logprobs",
    "prompt_logprobs": "include.prompt_logprobs",
    "image": "messages",
    "audio": "messages",
    "video": "messages",
    "chat_template": "template",
    "chat_template_kwargs": "template.kwargs",
    "documents": "template.documents",
    "truncate_prompt_tokens": "template.truncate_prompt_tokens",
    "cache_salt": "cache_salt",
    "priority": "priority",
}


@contextmanager
def rendering(request: pb.ChatRequest, default: str = "messages") -> Iterator[None]:
    """Make faults found while a request becomes a prompt the caller's: INVALID_ARGUMENT.

    One that vLLM ascribes to no parameter is that of the `default` field: of the messages, if a
    chat template's author speaks.
    """
    try:
        yield
    except VLLMValidationError as error:
        cause = error.__cause__
        if cause and not (error.parameter or isinstance(cause, TemplateError)):
            raise _unrenderable() from error  # in the words of any exception
        # Without a parameter the text begins with its name, or has none.
        (name,) = re.findall(r"^\w+", _text(error)) or [""]
        parameter = error.parameter or (name if name in _FIELDS else None)
        raise invalid(_field(parameter, request, default), reason(error)) from error
    except ValidationError as error:
        raise InvalidRequest([*_faults(error, request)]) from error
    except TimeoutError as error:
        raise invalid("messages", "the chat template takes too long") from error
    except (TemplateError, ValueError, TypeError, OverflowError) as error:
        raise _unrenderable() from error


@contextmanager
def generating(request: pb.ChatRequest) -> Iterator[None]:
    """Make vLLM's failures ours."""
    try:
        yield
    except CallError:
        raise
    except VLLMValidationError as error:
        default = "output_format" if request.HasField("output_format") else "request"
        raise invalid(_field(error.parameter, request, default), reason(error)) from error
    except NotImplementedError as error:
        raise UnsupportedFeature(["request"]) from error
    except VLLMClientError as error:
        _tell("vLLM refuses a request (so far: %d)")
        raise invalid("request", "vLLM refuses it") from error
    except EngineDeadError as error:
        raise EngineDead from error
    except GracefulHTTPError as error:  # vLLM's own --max-num-queued-reqs and -tokens
        raise QueueFull from error


def _tell(text: str) -> None:
    """Log the exception at hand, with how many there were."""
    if count := _seldom.due():
        log.warning(text, count, exc_info=True)


def invalid(field: str, text: str) -> InvalidRequest:
    """Make the refusal of one field."""
    return InvalidRequest([Violation(field, text)])


def _unrenderable() -> InvalidRequest:
    _tell("vLLM cannot render a request (so far: %d)")
    return invalid("request", "vLLM cannot render it")


def reason(error: VLLMValidationError) -> str:
    """Tell what a grammar's backend has against it, without the places in the backend's code."""
    text, cause = _text(error), error.__cause__
    while cause and cause.__cause__:
        cause = cause.__cause__
    if isinstance(cause, KeyError):  # a name of the backend's own
        text = text.partition(":")[0]
    elif cause and str(cause) not in text:
        text += f" {cause}"
    return re.sub(r"\[[\d:]+\] \S+:\d+: ", "", text)


def _faults(error: ValidationError, request: pb.ChatRequest) -> Iterator[Violation]:
    for fault in error.errors(include_url=False, include_input=False):
        parameter = str(fault["loc"][0]) if fault["loc"] else None
        field, text = _field(parameter, request), fault["msg"]
        if field.startswith("engine_options."):  # pydantic names classes of vLLM's
            text = f"vLLM does not take it: {fault['type'].replace('_', ' ')}"
        yield Violation(field, text)


def _field(parameter: str | None, request: pb.ChatRequest, default: str = "request") -> str:
    if parameter and parameter in request.engine_options.fields:
        return f"engine_options.{parameter}"
    field = _FIELDS.get(parameter, "request") if parameter else default
    kind = request.output_format.WhichOneof("format")
    return f"{field}.{kind}" if field == "output_format" and kind else field


def _text(error: VLLMValidationError) -> str:
    return Exception.__str__(error)  # its own appends the parameter and the value
