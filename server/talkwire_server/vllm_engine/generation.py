"""The answers of an AsyncLLM to calls, as they are asked for or given to a sink.

Knows its collectors of outputs. vLLM wakes a task at each output of each request; a sink is given
what there is in the very step that made it.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import RequestOutputCollector

from talkwire_server.engine import Call, Delta, Sink
from talkwire_server.vllm_engine.adapters import Adapters
from talkwire_server.vllm_engine.failures import generating
from talkwire_server.vllm_engine.gathering import APART, FINE, SHARED, Gathering, Take
from talkwire_server.vllm_engine.job import Job, Jobs
from talkwire_server.vllm_engine.outputs import Deltas
from talkwire_server.vllm_engine.unbegun import unless_ended
from talkwire_server.vllm_engine.vocabulary import Vocabulary


@dataclass(slots=True)
class _Begun:
    """A call that vLLM may work on.

    Attributes:
        told: Deltas that need no work.
        job: What is left to do, if anything is.
        deltas: Makes deltas of what comes of it.

    """

    told: Sequence[Delta] = ()
    job: Job | None = None
    deltas: Deltas | None = None


class Generation:
    """Has vLLM answer. See `talkwire_server.engine.Engine` for `stream` and `feed`."""

    def __init__(
        self,
        llm: AsyncLLM,
        jobs: Jobs,
        adapters: Adapters,
        vocabulary: Vocabulary,
        gathering: Gathering,
    ) -> None:
        self._llm = llm
        self._jobs = jobs
        self._adapters = adapters
        self._vocabulary = vocabulary
        self._gathering = gathering
        self._traces: bool = llm.observability_config.otlp_traces_endpoint is not None

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Generate the answer of a call."""
        async with self._begin(call) as begun:
            for delta in begun.told:
                yield delta
            if begun.job and begun.deltas:
                finished = False
                async with self._work(call, begun.job, begun.deltas, APART) as (collector, take):
                    while not finished:
                        output = collector.get_nowait() or await collector.get()
                        for delta in take(output):
                            yield delta
                        finished = output.finished  # maybe at a stop word vLLM was not told of

    async def feed(self, call: Call, sink: Sink) -> None:
        """Give the answer of a call to a sink."""
        async with self._begin(call) as begun:
            for delta in begun.told:
                sink.give(delta)
            if begun.job and begun.deltas:
                async with self._work(call, begun.job, begun.deltas, SHARED) as (collector, take):
                    try:
                        await _Feeding(collector, take, sink).ended
                    finally:
                        collector.ready = asyncio.Event()  # else both keep each other

    @asynccontextmanager
    async def _begin(self, call: Call) -> AsyncIterator[_Begun]:
        """Prepare a call; make what fails in the block ours, and count what was used."""
        with generating(call.request), self._adapters.using(call.model) as adapter:
            job = await unless_ended(call, self._jobs.make(call))
            if job is None:
                yield _Begun([delta async for delta in call.unbegun()])
                return
            if adapter:
                job.options["lora_request"] = adapter
            if self._traces:
                job.options["trace_headers"] = call.trace
            deltas = Deltas(call, job, self._vocabulary)
            if job.continued and job.continued.over:
                yield _Begun([deltas.over(*job.continued.over, job.continued.rest())])
                return
            call.used = job.most_tokens
            try:
                yield _Begun(job=job, deltas=deltas)
            except Exception:  # refused after all, or failed
                call.used = 0
                raise
            finally:
                call.used = deltas.used or call.used

    @asynccontextmanager
    async def _work(
        self, call: Call, job: Job, deltas: Deltas, singly: int
    ) -> AsyncIterator[tuple[RequestOutputCollector, Take]]:
        """Have vLLM work on a job for the block; yield where outputs come, and what takes them."""
        ending: list[asyncio.Task[None]] = []
        call.on_end(lambda: ending.append(asyncio.create_task(self._end(call))))
        try:
            collector = await self._llm.add_request(
                call.id, job.prompt, job.sampling, **job.options
            )
            chunking = call.request.chunking
            if call.request.HasField("chunking") and (
                chunking.min_chars < FINE or chunking.HasField("max_delay")
            ):
                yield collector, deltas.take  # what the caller says of chunks goes first
            else:
                state = self._llm.output_processor.request_states.get(collector.request_id)
                yield collector, self._gathering.of(state, deltas.take, singly)
        finally:
            call.on_end(lambda: None)  # an end that comes later would stop the id's next request
            for task in ending:
                task.cancel()
            await self._llm.abort(call.id)  # does nothing where it has ended

    async def _end(self, call: Call) -> None:
        """Have vLLM finish a request, which it may not know yet."""
        while True:
            await self._llm.abort(call.id)
            await asyncio.sleep(0.01)


class _Feeding:
    """Stands for the event of a collector, which vLLM sets at an output: gives it to a sink.

    While the sink takes nothing the collector merges what comes.

    Attributes:
        ended: Done when the last output was given.

    """

    def __init__(self, collector: RequestOutputCollector, take: Take, sink: Sink) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._collector = collector
        self._take = take
        self._sink = sink
        collector.ready = self
        self.set()  # what came before

    def set(self) -> None:
        """Give what there is, now or when the sink takes it."""
        if self._sink.takes():
            self._give()
        else:
            self._sink.on_room(self._give)

    def clear(self) -> None:
        """Do nothing: nobody waits."""

    def _give(self) -> None:
        if self.ended.done():  # cancelled
            return
        try:
            if output := self._collector.get_nowait():
                for delta in self._take(output):
                    self._sink.give(delta)
                if output.finished:  # maybe at a stop word that vLLM was not told of
                    self.ended.set_result(None)
        except Exception as error:
            self.ended.set_exception(error)
