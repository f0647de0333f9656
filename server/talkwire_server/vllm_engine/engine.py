"""The engine on vLLM's AsyncLLM: its life, and the stream that it is there for."""

import asyncio
import logging
import multiprocessing
import os
import threading
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Future
from contextlib import aclosing

from vllm.config import VllmConfig
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.platforms import current_platform
from vllm.usage.usage_lib import UsageContext
from vllm.v1.engine.async_llm import AsyncLLM

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import beyond
from talkwire_server.engine import Call, Delta, Prompt, StartError
from talkwire_server.errors import EngineFailure
from talkwire_server.settings import Settings
from talkwire_server.signals import kill_children, shield_children
from talkwire_server.vllm_engine.failures import generating
from talkwire_server.vllm_engine.prompt import SUPPORTED, Prompts, default_sampling

log = logging.getLogger("talkwire")

_FINISH = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "abort": pb.FINISH_REASON_ABORTED,
    "repetition": pb.FINISH_REASON_REPETITION,
}


class VllmEngine:
    """An AsyncLLM and its models. See `talkwire_server.engine.Engine` for the contract."""

    def __init__(
        self,
        config: VllmConfig,
        names: Sequence[str],
        settings: Settings,
        chat_template: str | None,
    ) -> None:
        self._config = config
        self._settings = settings
        self._chat_template = chat_template
        self._building: Future[AsyncLLM] = Future()
        self._llm: AsyncLLM | None = None
        self.models: Sequence[pb.Model] = [
            pb.Model(
                id=name,
                input_modalities=["text"],
                default_sampling=default_sampling(config.model_config),
                default_system=settings.default_system,
            )
            for name in names
        ]

    @property
    def llm(self) -> AsyncLLM:
        """The AsyncLLM itself. Only between `ready` and `stop`."""
        assert self._llm, "the engine is not ready"
        return self._llm

    @property
    def unfinished(self) -> int:
        """How many requests vLLM has not finished."""
        return self._llm.get_num_unfinished_requests() if self._llm else 0

    async def launch(self) -> None:
        """Build the AsyncLLM in a thread; return when its process is forked.

        A process must not be forked beside a live gRPC server, so only the CPU's single engine
        process is: forked, it need not import vLLM again, which takes ten seconds.
        """
        parallel = self._config.parallel_config
        fork = current_platform.is_cpu() and parallel.data_parallel_size == 1
        if fork:
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
        log.info("starting the engine")
        threading.Thread(target=self._build, name="build-engine", daemon=True).start()
        # vLLM tells nobody when it has forked.
        while fork and not (multiprocessing.active_children() or self._building.done()):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    def _build(self) -> None:
        building = self._building
        building.set_running_or_notify_cancel()  # whoever waits may be cancelled, not this
        shield_children()
        try:
            llm = AsyncLLM.from_vllm_config(
                self._config, usage_context=UsageContext.OPENAI_API_SERVER
            )
        except BaseException as error:
            building.set_exception(error)
        else:
            building.set_result(llm)

    async def ready(self) -> None:
        """Wait for the AsyncLLM, and render once."""
        try:
            self._llm = llm = await asyncio.wrap_future(self._building)
        except Exception as error:
            text = f"the engine did not start: {error} (the log above has the cause)"
            raise StartError(text) from error
        if "generate" not in await llm.get_supported_tasks():
            raise StartError(f"{self._config.model_config.model} does not generate text")
        config = self._config.model_config
        self._prompts = Prompts(
            config, llm.renderer, self._chat_template, self._settings.default_system
        )
        self._prompts.warmup()
        for model in self.models:
            # Only now: the engine may have cut the context to what its KV cache holds.
            model.max_context_tokens = config.max_model_len
            model.load_time.GetCurrentTime()
        if self._settings.log_level in ("info", "warning"):
            logging.getLogger("vllm").setLevel(logging.WARNING)

    async def failed(self) -> str:
        """Wait until vLLM says that its engine is dead; its own monitor knows at once."""
        while not (self._llm and self._llm.errored):  # noqa: ASYNC110  # vLLM has no event for it
            await asyncio.sleep(0.25)
        return str(self._llm.dead_error)

    async def stop(self) -> None:
        """Shut vLLM down; while it is still loading, kill its processes instead."""
        building, self._building, self._llm = self._building, Future(), None
        if not building.done():
            kill_children()
        elif not building.exception():
            llm = building.result()
            if llm.output_handler:
                llm.output_handler.cancel()  # else it reports the engine's end as a failure
            await asyncio.to_thread(llm.shutdown, timeout=10)

    def unsupported(self, request: pb.ChatRequest) -> Sequence[str]:
        """Name what the model or this server's flags do not allow."""
        return list(beyond(request, SUPPORTED))

    async def render(self, call: Call) -> Prompt:
        """Make the prompt of a call."""
        raise NotImplementedError

    async def load_adapter(self, id: str, path: str) -> pb.Model:
        """Serve an adapter."""
        raise NotImplementedError

    async def unload_adapter(self, id: str) -> None:
        """Serve an adapter no more."""
        raise NotImplementedError

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Generate the answer of a call."""
        llm = self.llm
        with generating():
            prompt, sampling = await self._prompts.render(call)
            tokens, started = 0, False
            delta = call.first_delta()
            try:
                async with aclosing(llm.generate(prompt, sampling, call.id)) as outputs:
                    async for output in outputs:
                        started = True
                        for part in output.outputs:
                            tokens += len(part.token_ids)
                            _fill(delta, part)
                        if output.finished:
                            _close(delta, call, output, tokens)
                        elif not delta.text:
                            continue  # held back: half a character, or what may be a stop word
                        yield delta
                        delta = Delta()
            finally:
                if not started:
                    # A cancel inside add_request would leave it running: vLLM does not know yet.
                    await llm.abort(call.id)


def _fill(delta: Delta, part: CompletionOutput) -> None:
    delta.text += part.text
    if part.finish_reason is None:
        return
    if part.finish_reason not in _FINISH:
        raise EngineFailure
    delta.finish_reason = _FINISH[part.finish_reason]
    match part.stop_reason:
        case str(text):
            delta.stop_match.text = text
        case int(token):
            delta.stop_match.token_id = token


def _close(delta: Delta, call: Call, output: RequestOutput, tokens: int) -> None:
    delta.usage.prompt_tokens = len(output.prompt_token_ids)
    delta.usage.cached_tokens = output.num_cached_tokens or 0
    delta.usage.completion_tokens = tokens
    times = output.metrics
    queue = times.scheduled_ts - times.queued_ts if times else 0.0
    first = times.first_token_latency if times else 0.0
    delta.timing.CopyFrom(call.timing(queue, first))
