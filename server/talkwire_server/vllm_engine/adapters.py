"""The LoRA adapters of one base model: loaded, named, held, forgotten. Knows no requests.

vLLM's own ways with adapters hold three traps, which decide what is done here:

- It knows an adapter by its name, in its prefix cache and in a batch. A name given to other
  weights later would mix the two up, so each load has a name of its own, `id#number`.
- It pushes adapters out of its memory, and reads them again in the midst of a step. A folder that
  is gone by then is the engine's death, so no more are loaded than it has room for, and none is
  removed while a call runs on it.
- The CPU kernels of 0.32 take the last slot of a batch for "no adapter": it has to stay empty.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, get_args

from vllm.config.lora import LoRAConfig, MaxLoRARanks
from vllm.lora.peft_helper import PEFTHelper
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import StartError
from talkwire_server.errors import (
    AdapterExists,
    CallError,
    EngineDead,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    UnsupportedFeature,
)
from talkwire_server.vllm_engine.failures import invalid

log = logging.getLogger("talkwire")


@dataclass(slots=True, eq=False)
class _Adapter:
    model: pb.Model
    request: LoRARequest
    calls: int = 0


class Adapters:
    """Loads and unloads adapters, and says on which one a call runs.

    Made before the engine starts, because it may widen that configuration by a slot.

    Args:
        config: The engine's LoRA configuration; None where LoRA is off.
        bases: The base model, under each of its names.

    """

    def __init__(self, config: LoRAConfig | None, bases: Sequence[pb.Model]) -> None:
        self._config = config
        self._room = room(config) if config else 0
        self._bases = bases
        self._llm: AsyncLLM | None = None
        self._started = False
        self._named: dict[str, _Adapter] = {}
        self._held: list[_Adapter] = []  # in vLLM's memory, named or not
        self._numbers = count(1)
        self._lock = asyncio.Lock()

    @property
    def models(self) -> Sequence[pb.Model]:
        """The adapters that can be asked for."""
        return [adapter.model for adapter in self._named.values()]

    async def start(self, llm: AsyncLLM, modules: Mapping[str, str]) -> None:
        """Load those of `--lora-modules`; from now on others, too.

        An engine that is started anew gets what the last one had instead.

        Raises:
            StartError: Some cannot be loaded; all are named.

        """
        had = {name: adapter.request.lora_path for name, adapter in self._named.items()}
        wanted = had if self._started else modules
        self._named.clear()
        self._held.clear()
        self._numbers = count(1)  # as all have it that share the engine, when they joined it or not
        self._llm, self._started = llm, True
        faults = []
        for name, path in wanted.items():
            try:
                await self.load(name, path)
            except CallError as error:
                faults.append(f"{name}: {error.message}")
        if faults:
            raise StartError(f"--lora-modules: {'; '.join(faults)}")

    def stop(self) -> None:
        """Let go of the engine."""
        self._llm = None

    async def load(self, id: str, path: str) -> pb.Model:
        """Serve the adapter of a folder under an id. Raises `CallError`s only."""
        if self._config is None:
            raise UnsupportedFeature(["adapters (the server has no --enable-lora)"])
        if self._llm is None:
            raise ModelLoading
        await asyncio.to_thread(_check, path, self._config)
        async with self._lock:
            if id in self._ids():
                raise AdapterExists(id)
            await self._forget(self._llm)
            if len(self._held) >= self._room:
                raise UnsupportedFeature([f"more than {self._room} adapters at once"])
            adapter = self._new(id, path)
            self._held.append(adapter)  # first, so that one whose load is cancelled goes, too
            await self._add(self._llm, adapter)
            self._named[id] = adapter
        log.info("adapter %s loaded from %s", id, path)
        return adapter.model

    async def unload(self, id: str) -> None:
        """Serve an adapter no more; calls on it go on. Raises `CallError`s only."""
        if self._llm is None:
            raise ModelLoading
        if id in self._base_ids():
            raise invalid("id", "is the base model's")
        async with self._lock:
            if id not in self._named:
                raise ModelNotFound(id, self._ids())
            del self._named[id]
            await self._forget(self._llm)
        log.info("adapter %s unloaded", id)

    @contextmanager
    def using(self, id: str) -> Iterator[LoRARequest | None]:
        """Keep a model's adapter for a call; None for the base model.

        Raises:
            ModelNotFound: It was unloaded since the call was let in.

        """
        adapter = self._named.get(id)
        if adapter is None:
            if id not in self._base_ids():
                raise ModelNotFound(id, self._ids())
            yield None
            return
        adapter.calls += 1
        try:
            yield adapter.request
        finally:
            adapter.calls -= 1

    def _base_ids(self) -> list[str]:
        return [model.id for model in self._bases]

    def _ids(self) -> list[str]:
        return [*self._base_ids(), *self._named]

    def _new(self, id: str, path: str) -> _Adapter:
        model = pb.Model()
        model.CopyFrom(self._bases[0])
        model.id, model.base_id = id, self._bases[0].id
        model.load_time.GetCurrentTime()
        number = next(self._numbers)
        return _Adapter(model, LoRARequest(f"{id}#{number}", number, str(Path(path).resolve())))

    async def _add(self, llm: AsyncLLM, adapter: _Adapter) -> None:
        try:
            await llm.add_lora(adapter.request)
        except EngineDeadError as error:
            raise EngineDead from error
        except Exception as error:  # vLLM tells by nothing else what failed in its process
            log.warning("vLLM cannot load the adapter %s: %s", adapter.model.id, error)
            await self._forget(llm)  # a part of it may be in vLLM's memory
            text = "vLLM cannot load it; the server's log has the cause"
            raise invalid("path", text) from error

    async def _forget(self, llm: AsyncLLM) -> None:
        """Have vLLM drop what has no name and no calls. What has calls still is dropped later."""
        named = self._named.values()
        for adapter in [a for a in self._held if not a.calls and a not in named]:
            try:
                await llm.remove_lora(adapter.request.lora_int_id)
            except EngineDeadError as error:
                raise EngineDead from error
            self._held.remove(adapter)


def defaults(modules: Mapping[str, str]) -> dict[str, Any]:
    """Make defaults of vLLM's LoRA flags, by what `--lora-modules` needs.

    Raises:
        StartError: A folder holds no adapter; all such are named.

    """
    ranks, faults = [16], []
    for name, path in modules.items():
        try:
            config = _read(path)
            ranks += [config.r, *config.rank_pattern.values()]
        except InvalidRequest as error:
            faults.append(f"{name}: {error.message}")
    if faults:
        raise StartError(f"--lora-modules: {'; '.join(faults)}")
    sizes = get_args(MaxLoRARanks)
    return {
        "enable_lora": bool(modules),
        "max_loras": max(4, len(modules)),
        "max_cpu_loras": max(256, len(modules)),
        "max_lora_rank": next((size for size in sizes if size >= max(ranks)), sizes[-1]),
    }


def room(config: LoRAConfig) -> int:
    """Say how many adapters vLLM can hold. On a CPU: widen it by the slot that stays empty."""
    if not current_platform.is_cpu():
        return int(config.max_cpu_loras)
    room = int(config.max_loras)  # slots fill from the first; as many as these never reach the last
    config.max_loras = room + 1
    config.max_cpu_loras = max(config.max_cpu_loras, config.max_loras)
    return room


def _check(path: str, config: LoRAConfig) -> None:
    try:
        _read(path).validate_legal(config)
    except ValueError as error:  # written for whoever made the adapter
        raise invalid("path", str(error)) from error


def _read(path: str) -> PEFTHelper:
    try:
        return PEFTHelper.from_local_dir(path, max_position_embeddings=None)
    except Exception as error:  # it reads the file as if it were right
        text = "has no adapter_config.json that vLLM can read"
        raise invalid("path", text) from error
