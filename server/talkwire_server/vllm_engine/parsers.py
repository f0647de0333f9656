"""Which of vLLM's parsers a server has, and which answers need one. Knows no tokens of answers."""

from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches

from vllm.config import VllmConfig
from vllm.parser.abstract_parser import DelegatingParser
from vllm.reasoning import ReasoningParserManager
from vllm.renderers.base import BaseRenderer
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.tool_parsers import ToolParser, ToolParserManager
from vllm.utils.import_utils import import_plugin

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import StartError
from talkwire_server.settings import Settings
from talkwire_server.vllm_engine.request import may_call
from talkwire_server.vllm_engine.short import ShortFirst


class ConstrainedToolParser(ToolParser):  # type: ignore[misc]  # vLLM's types are not read
    """The tool parser of a server without one: it reads what grammar makes a call, nothing else.

    All of that is in its base class and in the parser that vLLM builds around it.
    """


def make_renderer(
    config: VllmConfig, renderer: BaseRenderer, chat_template: str | None, settings: Settings
) -> OnlineRenderer:
    """Build vLLM's renderer of chats, with the parsers that belong to it in its `parser`.

    That is never None: without a tool call parser `required` and a named function still work, by
    constrained decoding. To refuse `auto` then is the caller's: see `tool_parser`.

    Raises:
        StartError: The parsers do not fit each other or the model's tokenizer.

    """
    tools = tool_parser(settings, config)
    try:
        made = OnlineRenderer(
            config.model_config,
            ShortFirst(renderer),
            request_logger=None,
            chat_template=chat_template,
            chat_template_content_format="auto",
            enable_auto_tools=bool(tools),
            tool_parser=tools,
            reasoning_parser=config.structured_outputs_config.reasoning_parser,
        )
    except TypeError as error:
        raise StartError(str(error)) from error
    if not tools:
        bases = (made.parser or DelegatingParser,)
        made.parser = type("Parser", bases, {"tool_parser_cls": ConstrainedToolParser})
    return made


def tool_parser(settings: Settings, config: VllmConfig) -> str | None:
    """Name the parser of tool calls that the model makes of its own accord, if there is one."""
    if config.model_config.hf_config.model_type == "gpt_oss":
        return settings.tool_call_parser or "openai"  # its one format; vLLM drops calls without it
    return settings.tool_call_parser


def check_parsers(settings: Settings, config: VllmConfig) -> None:
    """Import the plugin and find the tool call parser, before anything is started.

    Raises:
        StartError: The plugin cannot be imported, or there is no such parser.

    """
    _plug("--tool-parser-plugin", settings.tool_parser_plugin)
    known = ToolParserManager.list_registered()
    _require("--tool-call-parser", tool_parser(settings, config), known)


def check_reasoning_parser(flags: Namespace) -> None:
    """Do the same for the reasoning parser, one of vLLM's own flags, before vLLM looks for it."""
    _plug("--reasoning-parser-plugin", flags.reasoning_parser_plugin)
    known = ReasoningParserManager.list_registered()
    _require("--reasoning-parser", flags.reasoning_parser, known)


def _plug(flag: str, path: str | None) -> None:
    if path and import_plugin(path) is None:
        raise StartError(f"{flag} {path} cannot be imported (the log above has the cause)")


def _require(flag: str, name: str | None, known: Sequence[str]) -> None:
    if not name or name in known:
        return
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise StartError(f"{flag} {name}: no such parser; {hint}There are {', '.join(known)}")


def needs_parser(renderer: OnlineRenderer, request: pb.ChatRequest) -> bool:
    """Tell whether an answer must be parsed; else its text is the answer's text.

    It must be where the model may call tools, where a reasoning parser is configured (vLLM does so
    itself for gpt-oss, whose harmony format wraps even plain text), and where a model's response
    template says what text is.
    """
    parser = renderer.parser
    return (
        may_call(request)
        or parser.reasoning_parser_cls is not None
        or bool(parser.always_adjust_request)
    )
