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
    EngineFailure,
    InvalidRequest,
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
    except TemplateError as error:
        # raise_exception('...') in the model's template: its author's words for the caller.
        raise _invalid("messages", f"refused by the model's chat template: {error}") from error
    except (ValidationError, ValueError, TypeError, OverflowError) as error:
        log.debug("vLLM refuses a request", exc_info=True)
        raise _invalid("request", "vLLM cannot render it") from error


@contextmanager
def generating() -> Iterator[None]:
    """Make vLLM's failures ours."""
    try:
        yield
    except CallError:
        raise
    except VLLMValidationError as error:
        field = _FIELDS.get(error.parameter or "", "request")
        raise _invalid(field, Exception.__str__(error)) from error
    except NotImplementedError as error:
        raise UnsupportedFeature([str(error)]) from error
    except VLLMClientError as error:
        raise _invalid("request", str(error)) from error
    except EngineDeadError as error:
        raise EngineDead from error
    except GracefulHTTPError as error:
        raise EngineFailure from error


def _invalid(field: str, text: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, text)])
