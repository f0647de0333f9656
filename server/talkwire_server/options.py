"""Where settings come from: a YAML file, the environment, the command line; the later wins.

Everything becomes command-line flags first, so that a flag means the same wherever it stands,
vLLM's own flags included: `max_num_seqs: 8` in the file, `TALKWIRE_SERVE_MAX_NUM_SEQS=8` and
`--max-num-seqs 8` are one.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import yaml

from talkwire_server.settings import GROUPS, Settings
from talkwire_server.settings.flag import flag_of
from talkwire_server.settings.tracing import trace_exporters

PREFIX = "TALKWIRE_SERVE_"


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Read settings. Ends the process with usage and status 2 where they are wrong."""
    parser = _parser()
    args = list(_environment_flags(environ)) + list(argv)
    config, _ = _config_parser().parse_known_args(args)
    try:
        if config.config:
            args = list(_flags(content(config.config))) + args
        return replace(_settings(parser, args), trace_exporters=trace_exporters(environ))
    except (OSError, ValueError) as error:
        parser.error(str(error))


def settings(content: Mapping[str, Any]) -> Settings:
    """Make settings of a file's content alone. Raises ValueError where it is wrong."""
    parser = _Raising(allow_abbrev=False, add_help=False)
    _add_flags(parser)
    return _settings(parser, [*_flags(content)])


def content(path: str) -> dict[str, Any]:
    """Read a YAML file of flags. Raises OSError, and ValueError where it is none."""
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must hold a mapping of flags to values")
    return {str(key): value for key, value in content.items()}


class _Raising(argparse.ArgumentParser):
    """Leaves the process be."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _settings(parser: argparse.ArgumentParser, args: Sequence[str]) -> Settings:
    known, engine_args = parser.parse_known_args(args)
    values = {f.name: getattr(known, f.name) for f in fields(Settings) if f.name in known}
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    return Settings(**values, engine_args=tuple(engine_args))


def _environment_flags(environ: Mapping[str, str]) -> Iterator[str]:
    for key, value in sorted(environ.items()):
        if key.startswith(PREFIX) and value:
            yield from _flag(key.removeprefix(PREFIX).lower(), _scalar(value))


def _flags(content: Mapping[str, Any]) -> Iterator[str]:
    for key, value in content.items():
        yield from _flag(key, value)


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
    parser = argparse.ArgumentParser(
        prog="talkwire serve",
        description="Serve a model over gRPC. Takes every engine flag of vLLM's beside these.",
        epilog=f"Each flag also as an environment variable, --max-num-seqs as "
        f"{PREFIX}MAX_NUM_SEQS, or in --config FILE; of a flag given twice the last counts. "
        "vLLM's engine flags: talkwire serve --help-engine.",
        parents=[_config_parser()],
        allow_abbrev=False,
    )
    _add_flags(parser)
    return parser


def _add_flags(parser: argparse.ArgumentParser) -> None:
    for group in GROUPS:
        titled = parser.add_argument_group((group.__doc__ or "").rstrip("."))
        hints = get_type_hints(group)
        for one in fields(group):
            if one.metadata:
                titled.add_argument(flag_of(one), **_argument(one, hints[one.name]))


def _argument(one: Field[Any], hint: Any) -> dict[str, Any]:
    """Say how argparse shall read the flag of a field."""
    text, default = one.metadata["help"], one.default
    if default not in (None, (), ""):
        text += f" (default: {default})"
    said = {"dest": one.name, "default": default, "help": text.replace("%", "%%")}
    if hint is bool:
        return {**said, "action": argparse.BooleanOptionalAction}
    if get_origin(hint) is Literal:
        return {**said, "choices": get_args(hint)}
    if get_origin(hint) is tuple:
        return {**said, "nargs": "+", "metavar": one.metadata["metavar"]}
    (kind,) = set(get_args(hint) or (hint,)) - {type(None)}
    return {**said, "type": kind, "metavar": one.metadata["metavar"]}
