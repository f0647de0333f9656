"""The server's side: is a grammar compiled in time, and followed? Knows no fields of requests."""

import asyncio
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from cachetools import LRUCache
from vllm.config import VllmConfig
from vllm.sampling_params import StructuredOutputsParams
from vllm.v1.structured_output.request import get_structured_output_key

from talkwire_server.settings import Settings
from talkwire_server.vllm_engine.grammars.compiler import fault
from talkwire_server.vllm_engine.grammars.follower import CHECK, Limits
from talkwire_server.vllm_engine.grammars.origin import run
from talkwire_server.vllm_engine.grammars.peer import FOLDER, Peer, name_of
from talkwire_server.vllm_engine.grammars.plain import is_plain

T = TypeVar("T")

_AT_ONCE = 2  # trials; others wait for their turn
_KEPT = 16  # processes without an answer to follow
_REMEMBERED = 1000  # refusals
TOO_SLOW = "takes too long to find the next token"


class Refused(Exception):
    """Nothing can, or shall, be made of a constraint; the text says why."""


class Trials:
    """Tries what callers send before the engine sees it.

    Args:
        config: vLLM's.
        settings: The server's.

    """

    def __init__(self, config: VllmConfig, settings: Settings) -> None:
        self._config = config
        self._limits = Limits(
            settings.grammar_compile_timeout,
            settings.grammar_token_timeout,
            settings.grammar_memory_bytes,
        )
        self._kept: LRUCache[str, Peer] = LRUCache(_KEPT)
        self._refused: LRUCache[str, str] = LRUCache(_REMEMBERED)
        self._trials: dict[str, asyncio.Task[Peer | Refused]] = {}
        self._threads = ThreadPoolExecutor(_AT_ONCE, "grammars")
        self._process: BaseProcess | None = None

    def launch(self, *, fork: bool) -> None:
        """Start the process that the others come from; beside gRPC it must not be forked."""
        self._folder = TemporaryDirectory(prefix="talkwire-")
        os.environ[FOLDER] = self._folder.name
        context: Any = multiprocessing.get_context("fork" if fork else "spawn")
        process: BaseProcess = context.Process(
            target=run,
            args=(self._config, Path(self._folder.name), self._limits, os.getpid()),
            name="grammars",
            daemon=True,
        )
        process.start()
        self._process = process

    @property
    def alive(self) -> bool:
        """Whether that process lives."""
        return self._process is not None and self._process.is_alive()

    def stop(self) -> None:
        """End it, and what nobody follows."""
        self._kept.clear()
        if self._process:
            self._process.kill()
            self._folder.cleanup()

    async def held(self, constraint: StructuredOutputsParams) -> Peer | None:
        """Have a constraint compiled and tried; keep what is returned as long as it is needed.

        What is plain is left to vLLM, and has no process.

        Raises:
            Refused: It costs too much, or is none.

        """
        key = get_structured_output_key(constraint)
        if is_plain(*key):
            if text := fault(self._config, replace(constraint)):
                raise Refused(text)
            return None
        name = name_of(key)
        if text := self._refused.get(name, ""):
            raise Refused(text)
        peer = self._kept.get(name)
        if not (peer and peer.alive):
            if not (trial := self._trials.get(name)):
                trial = self._trials[name] = asyncio.create_task(self._tried(name, constraint))
                trial.add_done_callback(lambda _: self._trials.pop(name))
            tried = await asyncio.shield(trial)
            if isinstance(tried, Refused):
                raise tried
            peer = tried
        self._kept[name] = peer
        return peer

    async def _tried(self, name: str, constraint: StructuredOutputsParams) -> Peer | Refused:
        """Try a constraint for all who wait for it."""
        try:
            return await self._in_turn(self._try, name, constraint)
        except Refused as error:
            self._refused[name] = str(error)
            return error

    async def fault(self, constraint: StructuredOutputsParams) -> str:
        """Say what vLLM has against a constraint, without compiling it."""
        if is_plain(*get_structured_output_key(constraint)):
            return fault(self._config, constraint)
        return await self._in_turn(self._check, constraint)

    async def _in_turn(self, function: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, function, *arguments)

    def _try(self, name: str, constraint: StructuredOutputsParams) -> Peer:
        peer = Peer(name)
        try:
            text = peer.begin(replace(constraint), set())
        except EOFError:
            limits = self._limits
            most = f"{limits.compiling:g} s or {limits.memory >> 20} MiB"
            raise Refused(f"takes more than {most} to compile") from None
        if text:
            raise Refused(text)
        try:
            peer.ask("try")
        except EOFError:
            raise Refused(TOO_SLOW) from None
        return peer

    def _check(self, constraint: StructuredOutputsParams) -> str:
        try:
            return Peer(CHECK).begin(constraint, set())
        except EOFError:
            return "takes too long to read"
