"""The engine on vLLM's AsyncLLM: its life, and the stream that it is there for."""

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain, islice
from math import inf
from tempfile import TemporaryDirectory

from vllm.config import VllmConfig
from vllm.envs import disable_envs_cache, enable_envs_cache
from vllm.usage.usage_lib import UsageContext
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.adapters import modules
from talkwire_server.checks import beyond
from talkwire_server.engine import Call, Delta, Prompt, Sink, StartError
from talkwire_server.errors import MOST_FOUND
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings
from talkwire_server.signals import kill_children, shield_children
from talkwire_server.vllm_engine.abilities import Abilities
from talkwire_server.vllm_engine.adapters import Adapters
from talkwire_server.vllm_engine.config import capacity, default_sampling, input_modalities
from talkwire_server.vllm_engine.constraints import Constraints
from talkwire_server.vllm_engine.failures import generating
from talkwire_server.vllm_engine.gathering import Gathering
from talkwire_server.vllm_engine.generation import Generation
from talkwire_server.vllm_engine.grammars.held import hold_grammars
from talkwire_server.vllm_engine.grammars.trials import Trials
from talkwire_server.vllm_engine.job import Jobs
from talkwire_server.vllm_engine.missing import missing
from talkwire_server.vllm_engine.parsers import tool_parser
from talkwire_server.vllm_engine.prompt import Prompts
from talkwire_server.vllm_engine.pulse import Pulse
from talkwire_server.vllm_engine.request import SUPPORTED
from talkwire_server.vllm_engine.seat import Seat, settle
from talkwire_server.vllm_engine.starting import POLL, choose_start, gpus
from talkwire_server.vllm_engine.vocabulary import Vocabulary

log = logging.getLogger("talkwire")


class VllmEngine:
    """An AsyncLLM and its models. See `talkwire_server.engine.Engine` for the contract."""

    def __init__(
        self,
        config: VllmConfig,
        names: Sequence[str],
        settings: Settings,
        chat_template: str | None,
        seat: Seat | None = None,
        *,
        may_fork: bool = True,
    ) -> None:
        self._config = config
        self._may_fork = may_fork
        self._seat = seat
        self._settings = settings
        self._chat_template = chat_template
        self._building: Future[AsyncLLM] = Future()
        self._llm: AsyncLLM | None = None
        self._generation: Generation | None = None
        self._abilities: Abilities | None = None
        self._media = MediaStore(settings)
        self._tool_parser = tool_parser(settings, config)
        self._bases: Sequence[pb.Model] = [
            pb.Model(
                id=name,
                input_modalities=input_modalities(config),
                default_sampling=default_sampling(config),
                default_system=settings.default_system,
                tools=bool(self._tool_parser),
                reasoning=bool(config.structured_outputs_config.reasoning_parser),
            )
            for name in names
        ]
        self._adapters = Adapters(config.lora_config, self._bases)
        self._trials = Trials(config, settings)
        self._constraints = Constraints(self._trials)
        hold_grammars(config)
        self._pulse = Pulse()
        self._gathering = Gathering()
        self._launches = 0
        self._gpus = gpus(config)
        self._sockets: TemporaryDirectory[str] | None = None

    @property
    def models(self) -> Sequence[pb.Model]:
        """The base model, under each of its names, and its adapters."""
        return [*self._bases, *self._adapters.models]

    @property
    def llm(self) -> AsyncLLM:
        """The AsyncLLM itself. Only between `ready` and `stop`."""
        assert self._llm, "the engine is not ready"
        return self._llm

    @property
    def generation(self) -> Generation:
        """What answers. Only between `ready` and `stop`."""
        assert self._generation, "the engine is not ready"
        return self._generation

    @property
    def capacity(self) -> int:
        """How many sequences vLLM's schedulers run at once."""
        return capacity(self._config)

    @property
    def unfinished(self) -> int:
        """How many requests vLLM has not finished."""
        return self._llm.get_num_unfinished_requests() if self._llm else 0

    @property
    def steps(self) -> int:
        """How many steps vLLM told this process of."""
        return self._pulse.steps

    async def launch(self) -> None:
        """Build the AsyncLLM in a thread; return when its process is forked."""
        disable_envs_cache()
        self._launches += 1
        self._pulse.quiet = 0.0
        may_fork, self._may_fork = self._may_fork, False  # soon there is a gRPC server
        fork = choose_start(self._config, self._gpus, may=may_fork)
        if self._seat:
            self._start_building()
            return
        self._sockets = TemporaryDirectory(prefix="talkwire-")  # vLLM leaves them lying
        os.environ["VLLM_RPC_BASE_PATH"] = self._sockets.name
        log.info("starting the engine")
        self._trials.launch(fork=may_fork)
        others = len(multiprocessing.active_children())
        self._start_building()
        # vLLM tells nobody when it has forked.
        while fork and not (  # noqa: ASYNC110
            len(multiprocessing.active_children()) > others or self._building.done()
        ):
            await asyncio.sleep(0.02)

    def _start_building(self) -> None:
        threading.Thread(target=self._build, name="build-engine", daemon=True).start()

    def _build(self) -> None:
        building = self._building
        building.set_running_or_notify_cancel()  # whoever waits may be cancelled, not this
        shield_children()
        try:
            llm = self._seated(
                partial(
                    AsyncLLM.from_vllm_config,
                    self._config,
                    usage_context=UsageContext.OPENAI_API_SERVER,
                    stat_loggers=[self._pulse, self._gathering],
                )
            )
        except BaseException as error:
            building.set_exception(error)
        else:
            building.set_result(llm)

    def _seated(self, build: Callable[..., AsyncLLM]) -> AsyncLLM:
        if self._seat is None:
            return build()
        return self._seat.take_over(build, self._config) if self._late else self._seat.take(build)

    @property
    def _late(self) -> bool:
        """Whether it joins others that have begun."""
        return bool(self._seat and self._seat.context and self._launches == 1)

    async def ready(self) -> None:
        """Wait for the AsyncLLM, and render once."""
        try:
            self._llm = llm = await asyncio.wrap_future(self._building)
            self._processes = multiprocessing.active_children()
        except Exception as error:
            text = missing(error) or f"{error} (the log above has the cause)"
            raise StartError(f"the engine did not start: {text}") from error
        if self._late:
            await settle(llm)
        if "generate" not in await llm.get_supported_tasks():
            raise StartError(f"{self._config.model_config.model} does not generate text")
        config = self._config.model_config
        self._prompts = Prompts(
            self._config, llm.renderer, self._chat_template, self._settings, self._media
        )
        self._abilities = Abilities(
            self._bases[0],
            self._config,
            self._settings,
            self._tool_parser,
            self._prompts,
            self._media,
        )
        self._generation = Generation(
            llm,
            Jobs(self._config, self._prompts, self._constraints),
            self._adapters,
            Vocabulary(llm.renderer.get_tokenizer()),
            self._gathering,
        )
        await self._prompts.warmup()
        for model in self._bases:
            # Only now: the engine may have cut the context to what its KV cache holds.
            model.max_context_tokens = config.max_model_len
            model.tools &= self._prompts.template.shows_tools
            model.load_time.GetCurrentTime()
        await self._adapters.start(llm, modules(self._settings.lora_modules))
        if self._settings.log_level in ("info", "warning"):
            logging.getLogger("vllm").setLevel(logging.WARNING)
        enable_envs_cache()  # vLLM looks some up at each token
        freeze_gc_heap()  # what is loaded stays

    async def failed(self) -> str:
        """Wait until vLLM says that its engine is dead, or the engine makes no step with work."""
        # Of several only their core can tell: a step is told to but one.
        limit = inf if self._seat else self._settings.engine_stall_timeout or inf
        while True:
            await asyncio.sleep(POLL)  # vLLM has no event for it
            if self._llm and (self._llm.errored or not (self._seat or self._trials.alive)):
                return self._cause()
            if self.unfinished:  # what left unanswered was no step
                self._pulse.quiet += POLL
            if self._pulse.quiet > limit:
                kill_children()
                return f"it made no step for {limit:g} s, with {self.unfinished} requests in it"

    def _cause(self) -> str:
        for process in self._processes:
            if process.exitcode:
                return f"{process.name} ended with status {process.exitcode}"
        return "it failed (the log above has the cause)"

    async def stop(self) -> None:
        """Shut vLLM down; while it is still loading, kill its processes instead."""
        building, self._building, self._llm = self._building, Future(), None
        self._generation = None
        self._adapters.stop()
        self._trials.stop()
        if not building.done():
            kill_children()
        elif not building.exception():
            llm = building.result()
            for waiting in [*llm.engine_core.utility_results.values()]:
                if not waiting.done():  # which vLLM leaves so when its engine dies
                    waiting.set_exception(EngineDeadError())
            if llm.output_handler:
                llm.output_handler.cancel()  # else it reports the engine's end as a failure
            await asyncio.to_thread(llm.shutdown, timeout=10)
        if self._sockets:
            self._sockets.cleanup()

    def unsupported(self, request: pb.ChatRequest) -> Sequence[str]:
        """Name what the model or this server's flags do not allow."""
        assert self._abilities, "the engine is not ready"
        found = chain(beyond(request, SUPPORTED), self._abilities.lacking(request))
        return list(islice(found, MOST_FOUND))

    async def load_adapter(self, id: str, path: str) -> pb.Model:
        """Serve an adapter."""
        return await self._adapters.load(id, path)

    async def unload_adapter(self, id: str) -> None:
        """Serve an adapter no more."""
        await self._adapters.unload(id)

    async def render(self, call: Call) -> Prompt:
        """Make the prompt of a call."""
        with generating(call.request):
            await self._constraints.check_format(call.request)
            return await self._prompts.prompt(call)

    def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Generate the answer of a call."""
        return self.generation.stream(call)

    async def feed(self, call: Call, sink: Sink) -> None:
        """Give the answer of a call to a sink."""
        await self.generation.feed(call, sink)
