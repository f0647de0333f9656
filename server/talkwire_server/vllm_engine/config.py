"""vLLM's configuration: its own engine flags, with defaults for a small machine without a GPU."""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from vllm.config import VllmConfig
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMError
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform
from vllm.renderers.chat_utils import load_chat_template
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server import model
from talkwire_server.adapters import modules
from talkwire_server.engine import StartError
from talkwire_server.settings import Settings
from talkwire_server.vllm_engine import adapters
from talkwire_server.vllm_engine.missing import missing
from talkwire_server.vllm_engine.parsers import check_reasoning_parser

CPU_DEFAULTS: dict[str, Any] = {
    "dtype": "float32",  # exact in any batch, and faster than bfloat16 from about four streams on
    "enforce_eager": True,  # compiling takes minutes
    "kv_cache_memory_bytes": 1 << 30,
    "max_model_len": -1,  # as long as the KV cache holds
    "max_num_batched_tokens": 1024,  # also what the warm-up at start computes
    "max_num_seqs": 64,
    "worker_cls": "talkwire_server.vllm_engine.cpu_worker.Worker",
}

# A small model fills JSON up with white space for ever, where it is free to.
SMALL_MODEL_OUTPUTS = {"backend": "xgrammar", "disable_any_whitespace": True}

# Our words for media, and vLLM's; some models take images and films as one kind.
_MEDIA = {
    "image": ("image", "vision_chunk"),
    "audio": ("audio",),
    "video": ("video", "vision_chunk"),
}


def configure(settings: Settings, path: str, names: Sequence[str], number: int = 0) -> VllmConfig:
    """Make vLLM's configuration: of one of its frontends, or with -1 of what they share.

    Raises:
        StartError: The model or a flag is wrong.
        SystemExit: A flag does not parse; vLLM's parser has said so.

    """
    parser = _parser()
    if current_platform.is_cpu():
        parser.set_defaults(**CPU_DEFAULTS)
    if settings.model is None:
        parser.set_defaults(structured_outputs_config=json.dumps(SMALL_MODEL_OUTPUTS))
    parser.set_defaults(model=path, served_model_name=list(names))
    parser.set_defaults(**adapters.defaults(modules(settings.lora_modules)))
    flags = parser.parse_args(list(settings.engine_args))
    check_reasoning_parser(flags)
    if current_platform.is_cpu() and _workers(flags) == 1:
        # One process for engine and worker, and all cores for its threads.
        flags.distributed_executor_backend = flags.distributed_executor_backend or "uni"
    try:
        made = AsyncEngineArgs.from_cli_args(flags)
        made._api_process_count, made._api_process_rank = settings.frontends, number
        return made.create_engine_config(UsageContext.OPENAI_API_SERVER)
    except (ValidationError, ValueError, OSError, ImportError, RuntimeError, VLLMError) as error:
        text = missing(error) or _first_line(error)
        raise StartError(f"vLLM cannot serve {path}: {text}") from error


def input_modalities(config: VllmConfig) -> list[str]:
    """Say what a prompt may hold: text, and of media what the model and the flags allow."""
    model_config = config.model_config
    if not model_config.supports_multimodal_inputs:
        return ["text"]
    limits = MULTIMODAL_REGISTRY.get_processing_info(model_config).allowed_mm_limits
    return ["text", *(kind for kind, names in _MEDIA.items() if any(map(limits.get, names)))]


def capacity(config: VllmConfig) -> int:
    """Say how many sequences vLLM's schedulers run at once."""
    scheduler = config.scheduler_config
    most: int = scheduler.max_num_active_seqs or scheduler.max_num_seqs
    return most * int(config.parallel_config.data_parallel_size)


def default_sampling(config: VllmConfig) -> pb.Sampling:
    """Say what unset fields of `Sampling` mean for the model."""
    known = pb.Sampling.DESCRIPTOR.fields_by_name
    defaults: Mapping[str, Any] = config.model_config.get_diff_sampling_param()
    return pb.Sampling(**{name: value for name, value in defaults.items() if name in known})


def chat_template(settings: Settings) -> str | None:
    """Read the chat template in place of the model's own: a file's, or the text itself.

    Raises:
        StartError: It is neither.

    """
    source = settings.chat_template
    if source is None and settings.model is None:
        source = str(files("talkwire_server") / "embedded_model.jinja")
    try:
        template: str | None = load_chat_template(source)
    except (OSError, ValueError, VLLMError) as error:
        raise StartError(f"--chat-template: {_first_line(error)}") from error
    return template


def served_names(settings: Settings, path: str) -> list[str]:
    """Name the model: as told, else by its id, a local path by its last part."""
    if settings.served_model_name:
        return list(settings.served_model_name)
    if settings.model is None:
        return [model.NAME]
    return [Path(path).resolve().name if Path(path).is_dir() else path]


def print_help() -> int:
    """Print vLLM's engine flags."""
    _parser().print_help(sys.stdout)
    return 0


def _workers(flags: Namespace) -> int:
    size = flags.tensor_parallel_size * flags.pipeline_parallel_size * flags.data_parallel_size
    return int(size)


def _parser() -> FlexibleArgumentParser:
    parser = FlexibleArgumentParser(prog="talkwire serve", add_help=False)
    return AsyncEngineArgs.add_cli_args(parser)


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(fault["msg"] for fault in error.errors())
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
