"""vLLM's engine processes, which the AsyncLLMs of several frontends share. Knows no requests."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from math import inf
from tempfile import TemporaryDirectory
from time import monotonic

from vllm.config import VllmConfig
from vllm.envs import disable_envs_cache
from vllm.v1.engine.utils import CoreEngineLaunch, bind_engine_zmq_listeners, launch_core_engines
from vllm.v1.executor import Executor

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Engine, StartError
from talkwire_server.settings import Settings
from talkwire_server.signals import kill_children, shield_children
from talkwire_server.vllm_engine import load
from talkwire_server.vllm_engine.adapters import room
from talkwire_server.vllm_engine.config import capacity
from talkwire_server.vllm_engine.grammars.held import hold_grammars
from talkwire_server.vllm_engine.grammars.peer import FOLDER
from talkwire_server.vllm_engine.grammars.trials import Trials
from talkwire_server.vllm_engine.missing import missing
from talkwire_server.vllm_engine.seat import STATISTICS, Seat
from talkwire_server.vllm_engine.starting import POLL, choose_start, gpus

log = logging.getLogger("talkwire")

STALE = 5.0  # seconds after which nothing is known of an engine that was not heard


class VllmCore:
    """See `talkwire_server.engine.Core` for the contract.

    Raises:
        StartError: A flag of vLLM's does not go with several frontends.

    """

    def __init__(self, config: VllmConfig, settings: Settings) -> None:
        self._config = config
        self._settings = settings
        self.capacity = capacity(config)
        for fault in _faults(config):
            raise StartError(f"--frontends does not go with {fault}")
        hold_grammars(config)
        if config.lora_config:
            room(config.lora_config)
        self._trials = Trials(config, settings)
        self._folder = TemporaryDirectory(prefix="talkwire-")
        os.environ["VLLM_RPC_BASE_PATH"] = self._folder.name
        self._listeners = bind_engine_zmq_listeners(config, settings.frontends)
        self._launches = 0
        self._gpus = gpus(config)
        self._launch: Future[CoreEngineLaunch] = Future()
        self._loaded: Future[None] = Future()
        self._felt: dict[int, tuple[int, int, float]] = {}
        self._quiet = 0.0

    @property
    def environment(self) -> Mapping[str, str]:
        """Where the processes of grammars are, and vLLM's own statistics, if it has any."""
        coordinator = self._launch.result().coordinator
        stats = coordinator.get_stats_publish_address() if coordinator else ""
        return {FOLDER: os.environ[FOLDER], STATISTICS: stats}

    def seat(self, number: int, models: Sequence[pb.Model]) -> Callable[[], Engine]:
        """Return what makes one of the engines. `models` are those of others that run."""
        seat = Seat(
            number,
            self._settings.frontends,
            self._listeners.inputs[number],
            self._listeners.outputs[number],
            models[0].max_context_tokens if models else None,
        )
        return partial(load, self._settings, seat)

    def feel(self, number: int, unfinished: int, steps: int) -> None:
        """Hear from one of the engines; vLLM tells but one of them of a step."""
        if number not in self._felt or self._felt[number][1] != steps:
            self._quiet = 0.0
        self._felt[number] = unfinished, steps, monotonic()

    async def launch(self) -> None:
        """Start the engine processes in a thread; return when they are there."""
        disable_envs_cache()
        self._launches += 1
        choose_start(self._config, self._gpus, may=self._launches == 1)
        self._launch, self._loaded = Future(), Future()
        self._felt.clear()
        self._quiet = 0.0
        log.info("starting the engine")
        self._trials.launch(fork=self._launches == 1)
        threading.Thread(target=self._start, name="start-engine", daemon=True).start()
        try:
            await asyncio.shield(asyncio.wrap_future(self._launch))
        except Exception as error:
            raise _start_error(error) from error

    def _start(self) -> None:
        launched, loaded = self._launch, self._loaded
        for future in (launched, loaded):
            future.set_running_or_notify_cancel()  # whoever waits may be cancelled, not this
        shield_children()
        made_by = Executor.get_class(self._config)
        try:
            with launch_core_engines(
                self._config, made_by, log_stats=True, addresses=self._listeners.addresses
            ) as launch:
                launched.set_result(launch)
        except BaseException as error:
            for future in (launched, loaded):
                if not future.done():
                    future.set_exception(error)
        else:
            loaded.set_result(None)

    async def ready(self) -> None:
        """Wait for the engine processes."""
        try:
            await asyncio.wrap_future(self._loaded)
        except Exception as error:
            raise _start_error(error) from error

    async def failed(self) -> str:
        """Wait until a process that had loaded has ended, or none makes a step with work."""
        await self.ready()
        limit = self._settings.engine_stall_timeout or inf
        manager = self._launch.result().engine_manager
        while True:
            await asyncio.sleep(POLL)
            for name, status in manager.finished_procs().items():
                return f"{name} ended with status {status}"
            if not self._trials.alive:
                return "the process of grammars ended"
            since = monotonic() - STALE
            heard = [one for one, _, at in self._felt.values() if at > since]
            unfinished = sum(heard)
            # Steps may be told to a seat alone that is vacant, and says nothing.
            if unfinished and len(heard) == self._settings.frontends:
                self._quiet += POLL
            if self._quiet > limit:
                for process in manager.processes:
                    process.kill()
                return f"it made no step for {limit:g} s, with {unfinished} requests in it"

    async def stop(self) -> None:
        """Shut the processes down; while they are still loading, kill them."""
        self._trials.stop()
        if not self._launch.done() or self._launch.exception():
            return
        launch = self._launch.result()
        if not self._loaded.done():
            kill_children()
        await asyncio.to_thread(launch.engine_manager.shutdown, timeout=10)
        if launch.coordinator:
            launch.coordinator.shutdown()


def _faults(config: VllmConfig) -> list[str]:
    """Name the flags whose parts live in one process."""
    multimodal = config.model_config.multimodal_config
    parallel = config.parallel_config
    return [
        flag
        for flag, given in {
            "--mm-tensor-ipc torch_shm": multimodal and multimodal.mm_tensor_ipc == "torch_shm",
            "--data-parallel-backend ray": parallel.data_parallel_backend == "ray",
        }.items()
        if given
    ]


def _start_error(error: Exception) -> StartError:
    text = missing(error) or f"{error} (the log above has the cause)"
    return StartError(f"the engine did not start: {text}")
