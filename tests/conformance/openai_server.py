"""vLLM's own OpenAI HTTP server over an engine that already runs. Knows no gRPC.

Imports vLLM; so import it only where a test runs.
"""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from copy import copy

import uvicorn
from vllm.engine.protocol import EngineClient
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.utils.argparse_utils import FlexibleArgumentParser

try:
    from vllm.entrypoints.common.cli_args import make_arg_parser
except ImportError:  # vLLM 0.32
    from vllm.entrypoints.launchers.cli_args import make_arg_parser


@asynccontextmanager
async def openai_server(
    llm: EngineClient, *flags: str, reasoning_parser: str = ""
) -> AsyncIterator[str]:
    """Serve an engine on a free port for the length of the block; yield the server's URL.

    Args:
        llm: The engine.
        flags: Of `vllm serve`; those of the engine are without effect.
        reasoning_parser: What `--reasoning-parser` would be: it is one of the engine's.

    """
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(list(flags))
    args.structured_outputs_config = copy(args.structured_outputs_config)
    args.structured_outputs_config.reasoning_parser = reasoning_parser
    tasks = await llm.get_supported_tasks()
    level = logging.root.level
    app = build_app(args, tasks, llm.model_config)
    logging.root.setLevel(level)  # a package that vLLM's app imports takes warnings from everybody
    await init_app_state(llm, app.state, args, tasks)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app.state.server = server = _Server(uvicorn.Config(app, log_config=None))
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


class _Server(uvicorn.Server):
    """Leaves the signals to pytest."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
