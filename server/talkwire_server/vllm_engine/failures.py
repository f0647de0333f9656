"""vLLM's exceptions, and the one table that makes them ours."""

import logging
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

log = logging.getLogger("talkwire")

# vLLM's parameter: the contract's field. What is missing here is named "request".
_FIELDS: Mapping[str, str] = {
    **{field.name: f"sampling.{field.name}" for field in pb.Sampling.DESCRIPTOR.fields},
    "max_completion_tokens": "sampling.max_tokens",
    "messages": "messages",
    "chat_template": "template",
    "chat_template_kwargs": "template.kwargs",
}


@contextmanager
def rendering() -> Iterator[None]:
    """Make faults found while a request becomes a prompt the caller's: INVALID_ARGUMENT."""
    try:
        yield
    except VLLMValidationError as error:
        # Without a parameter: what the chat template's author says of the messages.
        raise invalid(_field(error, "messages"), Exception.__str__(error)) from error
    except TimeoutError as error:
        raise invalid("messages", "the chat template takes too long") from error
    except (TemplateError, ValidationError, ValueError, TypeError, OverflowError) as error:
        log.warning("vLLM cannot render a request", exc_info=True)
        raise invalid("request", "vLLM cannot render it") from error


@contextmanager
def generating() -> Iterator[None]:
    """Make vLLM's failures ours."""
    try:
        yield
    except CallError:
        raise
    except VLLMValidationError as error:
        raise invalid(_field(error, "request"), Exception.__str__(error)) from error
    except NotImplementedError as error:
        raise UnsupportedFeature(["request"]) from error
    except VLLMClientError as error:
        log.warning("vLLM refuses a request", exc_info=True)
        raise invalid("request", "vLLM refuses it") from error
    except EngineDeadError as error:
        raise EngineDead from error
    except GracefulHTTPError as error:  # vLLM's own --max-num-queued-reqs and -tokens
        raise QueueFull from error


def invalid(field: str, text: str) -> InvalidRequest:
    """Make the refusal of one field."""
    return InvalidRequest([Violation(field, text)])


def _field(error: VLLMValidationError, default: str) -> str:
    return _FIELDS.get(error.parameter, "request") if error.parameter else default
