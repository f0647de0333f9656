"""Where settings come from: a YAML file, the environment, the command line; the later wins.

Everything becomes command-line flags first, so that a flag means the same wherever it stands,
vLLM's own flags included: `max_num_seqs: 8` in the file, `TALKWIRE_SERVE_MAX_NUM_SEQS=8` and
`--max-num-seqs 8` are one.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from talkwire_server.settings import Settings

PREFIX = "TALKWIRE_SERVE_"


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read settings. Ends the process with usage and status 2 where they are wrong."""
    parser = _parser()
    args = list(_environment_flags(environ)) + list(argv)
    config, _ = _config_parser().parse_known_args(args)
    try:
        if config.config:
            args = list(_file_flags(config.config)) + args
        known, engine_args = parser.parse_known_args(args)
        values = {f.name: getattr(known, f.name) for f in fields(Settings) if f.name in known}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return Settings(**values, engine_args=tuple(engine_args))
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(str(error))


def _environment_flags(environ: Mapping[str, str]) -> Iterator[str]:
    for key, value in sorted(environ.items()):
        if key.startswith(PREFIX) and value:
            yield from _flag(key.removeprefix(PREFIX).lower(), _scalar(value))


def _file_flags(path: str) -> Iterator[str]:
    content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a mapping of flags to values")
    for key, value in content.items():
        yield from _flag(str(key), value)


def _scalar(text: str) -> str | bool:
    return {"true": True, "false": False}.get(text.lower(), text)


def _flag(name: str, value: Any) -> Iterator[str]:
    dashed = name.replace("_", "-")
    if isinstance(value, bool):
        yield f"--{dashed}" if value else f"--no-{dashed}"
    elif isinstance(value, list):
        yield from (f"--{dashed}", *map(str, value))
    elif value is not None:  # a key without a value says nothing
        yield f"--{dashed}={json.dumps(value) if isinstance(value, dict) else value}"


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE", help="YAML file of flags without their dashes")
    return parser


def _parser() -> argparse.ArgumentParser:
    d = Settings()
    switch = argparse.BooleanOptionalAction
    parser = argparse.ArgumentParser(
        prog="talkwire serve",
        description="Serve a model over gRPC. Takes every engine flag of vLLM's beside these.",
        epilog=f"Each flag also as an environment variable, --max-num-seqs as "
        f"{PREFIX}MAX_NUM_SEQS, or in --config FILE. vLLM's engine flags: talkwire serve "
        "--help-engine.",
        parents=[_config_parser()],
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--engine", choices=["vllm", "echo"], default=d.engine, help="echo needs no model")
    add("--model", help="id or local path; default: the embedded model")
    add("--served-model-name", nargs="+", default=[], metavar="NAME", help="names to serve under")
    add("--modelscope", action=switch, default=d.modelscope, help="the id is ModelScope's")
    add("--chat-template", help="Jinja file or text in place of the model's")
    add("--lora-modules", nargs="+", default=[], metavar="NAME=PATH", help="LoRA adapters")
    add("--tool-call-parser", help="vLLM's parser of the model's tool calls")
    add("--tool-parser-plugin", metavar="FILE", help="Python file with a tool call parser")
    add(
        "--allow-engine-options",
        dest="engine_options",
        nargs="+",
        default=[],
        metavar="NAME",
        help="what a request's engine_options may hold",
    )
    add(
        "--allowed-media-domains",
        nargs="+",
        default=[],
        metavar="HOST",
        help="where media may be fetched from: example.com, http://10.0.0.5:8080",
    )
    add("--allowed-local-media-path", metavar="DIR", help="where file: URIs may be read from")
    add("--media-timeout", type=float, default=d.media_timeout, metavar="S", help="for fetching")
    add("--max-media-bytes", type=int, default=d.max_media_bytes, help="largest medium")
    add("--max-image-pixels", type=int, default=d.max_image_pixels, help="largest image")
    add("--media-cache-bytes", type=int, default=d.media_cache_bytes, help="for cache_key")
    add("--default-system", default=d.default_system, help="system prompt of requests without")
    add("--host", default=d.host, help="address, or unix:PATH")
    add("--port", type=int, default=d.port, help="0 takes a free one")
    add("--admin-port", type=int, help="serve the AdminService on 127.0.0.1")
    add("--grace", type=float, default=d.grace, metavar="S", help="time to finish at a stop")
    add("--max-message-bytes", type=int, default=d.max_message_bytes, help="largest request")
    add("--reflection", action=switch, default=d.reflection, help="serve gRPC reflection")
    add("--channelz", action=switch, default=d.channelz, help="serve channelz")
    add("--stop-on-eof", action=switch, default=d.stop_on_eof, help="stop when stdin ends")
    add("--echo-delay", type=float, default=d.echo_delay, metavar="S", help="pace of echo")
    add("--log-level", choices=["debug", "info", "warning", "error"], default=d.log_level)
    return parser
