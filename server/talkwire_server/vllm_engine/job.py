"""From an admitted call to what vLLM generates from. Generates nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.inputs import EngineInput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.errors import ContextLengthExceeded
from talkwire_server.vllm_engine.constraints import Constraints
from talkwire_server.vllm_engine.continuation import Continued
from talkwire_server.vllm_engine.failures import invalid, rendering
from talkwire_server.vllm_engine.grammars.peer import Peer
from talkwire_server.vllm_engine.parsers import needs_parser
from talkwire_server.vllm_engine.prompt import Prompts, Request
from talkwire_server.vllm_engine.reading import Reading


@dataclass(slots=True)
class Job:
    """A call as vLLM takes it, and what reading its outputs needs.

    Attributes:
        prompt: Rendered, tokenized, media processed.
        sampling: vLLM's sampling parameters.
        prompt_token_ids: The prompt's tokens without those of a continuation.
        media_tokens: How many of them stand for images, sound and film.
        options: More keyword arguments of `AsyncLLM.generate`.
        readings: A parser for each of the n answers; none when text is only text.
        continued: The part of the answer that the caller has already, if any.
        held: The process of the grammar that it is held to, if it has one.

    """

    prompt: EngineInput
    sampling: SamplingParams
    prompt_token_ids: list[int]
    media_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    readings: Sequence[Reading] = ()
    continued: Continued | None = None
    held: Peer | None = None

    @property
    def most_tokens(self) -> int:
        """What it can have taken of tokens, when nothing of an answer came."""
        tokens = len(self.prompt["prompt_token_ids"])
        if self.sampling.output_kind == RequestOutputKind.FINAL_ONLY:
            tokens += self.sampling.n * (self.sampling.max_tokens or 0)
        return tokens


class Jobs:
    """Makes jobs for one model.

    Args:
        config: The engine's.
        prompts: What renders.
        constraints: What looks at forms of answers.

    """

    def __init__(self, config: VllmConfig, prompts: Prompts, constraints: Constraints) -> None:
        self._config: ModelConfig = config.model_config
        self._most_answers: int = config.scheduler_config.max_num_seqs
        self._defaults = self._config.get_diff_sampling_param()
        self._prompts = prompts
        self._constraints = constraints
        self._turns = asyncio.Lock()

    async def make(self, call: Call) -> Job:
        """Make all that vLLM needs to answer a call.

        Raises:
            InvalidRequest: The template, a medium or vLLM refuses the request.
            ContextLengthExceeded: The prompt leaves no room for an answer.

        """
        if call.request.n > self._most_answers:
            raise invalid("n", f"must be <= {self._most_answers}, got {call.request.n}")
        await self._constraints.check_format(call.request)
        asked, request, prompt = await self._prompts.render(call)
        tokens = list(prompt["prompt_token_ids"])
        with rendering(asked, "sampling"):
            limit = get_max_tokens(
                self._config.max_model_len, request.max_completion_tokens, len(tokens), {}
            )
            sampling = request.to_sampling_params(limit, self._defaults)
        media = prompt.get("mm_placeholders") or {}
        job = Job(
            prompt,
            sampling,
            tokens,
            media_tokens=sum(place.length for places in media.values() for place in places),
            options={"priority": asked.priority},
            held=await self._constraints.hold(asked, sampling.structured_outputs),
        )
        if asked.HasField("continuation"):
            await self._continue(asked.continuation, job)
        if needs_parser(self._prompts.renderer, asked):
            self._parse(job, request, asked)
        if job.continued:
            await job.continued.replay(job.readings, self._turns)
        if job.readings or job.continued or not call.final_only:
            # A long answer in one piece would hold up the event loop while it is read.
            job.sampling.output_kind = RequestOutputKind.DELTA
        return job

    async def _continue(self, given: pb.Continuation, job: Job) -> None:
        ids = list(given.token_ids)
        vocabulary = self._config.get_vocab_size()
        for i, token in enumerate(ids):
            if token >= vocabulary:
                raise invalid(f"continuation.token_ids[{i}]", f"no token {token} in this model")
        if not ids:
            ids = await asyncio.to_thread(
                self._prompts.tokenizer.encode, given.text, add_special_tokens=False
            )
        used, limit = len(job.prompt_token_ids) + len(ids), self._config.max_model_len
        if used > limit:
            raise ContextLengthExceeded(used, limit)
        job.sampling.update_from_generation_config(  # as vLLM does it later, for its own eyes
            self._config.try_get_generation_config(), self._prompts.tokenizer.eos_token_id
        )
        job.continued = Continued(self._prompts.tokenizer, job.prompt_token_ids, job.sampling, ids)
        job.sampling = job.continued.remaining
        job.prompt = {**job.prompt, "prompt_token_ids": job.prompt_token_ids + ids}

    def _parse(self, job: Job, request: "Request", asked: pb.ChatRequest) -> None:
        kwargs = self._prompts.renderer.effective_chat_template_kwargs(request)
        parsers = [
            self._prompts.renderer.parser(
                self._prompts.tokenizer,
                request.tools,
                chat_template_kwargs=kwargs,
                model_config=self._config,
            )
            for _ in range(request.n or 1)
        ]
        if parsers[0].reasoning_parser is not None:
            job.options["reasoning_parser_kwargs"] = {"chat_template_kwargs": kwargs}
        job.options["reasoning_ended"] = request.resolve_reasoning_ended(
            parsers[0], job.prompt["prompt_token_ids"]
        )
        job.readings = [
            Reading(
                parser, request, job.prompt_token_ids, exclude_reasoning=asked.reasoning.exclude
            )
            for parser in parsers
        ]
