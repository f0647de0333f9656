"""From an admitted call to what vLLM generates from, by its own renderer. Generates nothing."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.serve.utils.api_utils import get_max_tokens
from vllm.exceptions import VLLMValidationError
from vllm.inputs import EngineInput
from vllm.renderers.base import BaseRenderer
from vllm.renderers.params import TokenizeParams
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call, Prompt
from talkwire_server.errors import ContextLengthExceeded, MediaUnreadable, Violation
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings
from talkwire_server.texts import characters
from talkwire_server.vllm_engine.continuation import Continued
from talkwire_server.vllm_engine.control_tokens import control_tokens
from talkwire_server.vllm_engine.failures import invalid, reason, rendering
from talkwire_server.vllm_engine.parsers import make_renderer, needs_parser
from talkwire_server.vllm_engine.reading import Reading
from talkwire_server.vllm_engine.request import vllm_request
from talkwire_server.vllm_engine.template import Template

_LONG = 100_000  # characters; others do not wait for what is done with more


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

    """

    prompt: EngineInput
    sampling: SamplingParams
    prompt_token_ids: list[int]
    media_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    readings: Sequence[Reading] = ()
    continued: Continued | None = None

    @property
    def most_tokens(self) -> int:
        """What it can have taken of tokens, when nothing of an answer came."""
        tokens = len(self.prompt["prompt_token_ids"])
        if self.sampling.output_kind == RequestOutputKind.FINAL_ONLY:
            tokens += self.sampling.n * (self.sampling.max_tokens or 0)
        return tokens


class Prompts:
    """Makes prompts for one model.

    Attributes:
        template: The model's.

    Args:
        config: The engine's.
        renderer: The engine's.
        chat_template: Jinja text in place of the model's template.
        settings: The server's.
        media: Where images, sound and film come from.

    """

    def __init__(
        self,
        config: VllmConfig,
        renderer: BaseRenderer,
        chat_template: str | None,
        settings: Settings,
        media: MediaStore,
    ) -> None:
        self._config: ModelConfig = config.model_config
        self._structured_outputs = config.structured_outputs_config
        self._most_answers: int = config.scheduler_config.max_num_seqs
        self._defaults = self._config.get_diff_sampling_param()
        self._default_system = settings.default_system
        self._media = media
        self._tokenizer = renderer.get_tokenizer()
        self._turns = asyncio.Lock()
        self._renderer = make_renderer(config, renderer, chat_template, settings)
        self.template = Template(self._renderer, self._tokenizer, self._config)
        self._control_tokens = control_tokens(
            settings, self._config, self._tokenizer, self.template.text
        )

    @property
    def constrains_calls(self) -> bool:
        """Whether calls that the model may make can be held to their tools' schemas."""
        parser = self._renderer.parser.tool_parser_cls
        return parser is not None and parser.structural_tag_model is not None

    def warmup(self) -> None:
        """Render once, so that the first request need not wait for Jinja."""
        self._renderer.warmup()

    async def prompt(self, call: Call) -> Prompt:
        """Make what the model sees of a call. Raises as `job` does."""
        _, _, prompt = await self._render(call)
        ids, text = prompt["prompt_token_ids"], prompt.get("prompt")
        if not text or call.request.template.truncate_prompt_tokens:
            text = self._tokenizer.decode(ids)
        return Prompt(text, ids)

    async def _render(self, call: Call) -> tuple[pb.ChatRequest, "Request", EngineInput]:
        length = self._check_length(call.request)
        asked = await self._media.resolve(call.request)
        if self._control_tokens:
            breaking = partial(self._control_tokens.broken, asked)
            asked = await asyncio.to_thread(breaking) if length > _LONG else breaking()
        with rendering(asked):
            request = Request(**self._request(call, asked))
            try:
                rendered = await self._renderer.render_chat(request)
            except (ValueError, SyntaxError):  # PIL's word for a broken PNG
                if faults := await self._media.explain(asked):
                    raise MediaUnreadable(faults) from None
                raise
            if not isinstance(rendered, tuple):  # vLLM returns some of its refusals
                raise invalid("request", rendered.error.message)
        _, (prompt,) = rendered
        tokens, limit = len(prompt["prompt_token_ids"]), self._config.max_model_len
        if tokens >= limit:
            raise ContextLengthExceeded(tokens, limit)
        return asked, request, prompt

    def _check_length(self, asked: pb.ChatRequest) -> int:
        """Refuse what no tokenizer could make fit, before it takes its time; count characters."""
        length = characters(asked)
        least = length // self._tokenizer.max_chars_per_token
        if least >= self._config.max_model_len:
            raise ContextLengthExceeded(least, self._config.max_model_len)
        return length

    async def job(self, call: Call) -> Job:
        """Make all that vLLM needs to answer a call.

        Raises:
            InvalidRequest: The template, a medium or vLLM refuses the request.
            ContextLengthExceeded: The prompt leaves no room for an answer.

        """
        if call.request.n > self._most_answers:
            raise invalid("n", f"must be <= {self._most_answers}, got {call.request.n}")
        asked, request, prompt = await self._render(call)
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
        )
        if asked.HasField("continuation"):
            await self._continue(asked.continuation, job)
        if needs_parser(self._renderer, asked):
            self._parse(job, request, asked)
        if job.continued:
            await job.continued.replay(job.readings, self._turns)
        if job.readings or job.continued or not call.final_only:
            # A long answer in one piece would hold up the event loop while it is read.
            job.sampling.output_kind = RequestOutputKind.DELTA
        return job

    def uncompilable(self, request: pb.ChatRequest) -> Iterator[Violation]:
        """Find the tools of whose parameters the backend cannot make a grammar, and why."""
        for i, tool in enumerate(request.tools):
            schema = StructuredOutputsParams(json=tool.function.parameters or "{}")
            try:
                SamplingParams(structured_outputs=schema).verify(
                    self._config, None, self._structured_outputs, self._tokenizer
                )
            except VLLMValidationError as error:
                yield Violation(f"tools[{i}].function.parameters", reason(error))

    async def _continue(self, given: pb.Continuation, job: Job) -> None:
        ids = list(given.token_ids)
        vocabulary = self._config.get_vocab_size()
        for i, token in enumerate(ids):
            if token >= vocabulary:
                raise invalid(f"continuation.token_ids[{i}]", f"no token {token} in this model")
        if not ids:
            ids = await asyncio.to_thread(
                self._tokenizer.encode, given.text, add_special_tokens=False
            )
        used, limit = len(job.prompt_token_ids) + len(ids), self._config.max_model_len
        if used > limit:
            raise ContextLengthExceeded(used, limit)
        job.sampling.update_from_generation_config(  # as vLLM does it later, for its own eyes
            self._config.try_get_generation_config(), self._tokenizer.eos_token_id
        )
        job.continued = Continued(self._tokenizer, job.prompt_token_ids, job.sampling, ids)
        job.sampling = job.continued.remaining
        job.prompt = {**job.prompt, "prompt_token_ids": job.prompt_token_ids + ids}

    def _parse(self, job: Job, request: "Request", asked: pb.ChatRequest) -> None:
        kwargs = self._renderer.effective_chat_template_kwargs(request)
        parsers = [
            self._renderer.parser(
                self._tokenizer,
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

    def _request(self, call: Call, asked: pb.ChatRequest) -> dict[str, Any]:
        limit = self._config.max_model_len
        made = {
            "request_id": call.id,
            "max_completion_tokens": self._defaults.get("max_tokens", limit),
            **vllm_request(asked, self._default_system),
        }
        if made.get("truncate_prompt_tokens") == -1:  # vLLM's would leave one token of room
            made["truncate_prompt_tokens"] = max(1, limit - max(1, asked.sampling.max_tokens))
        return made


class Request(ChatCompletionRequest):  # type: ignore[misc]  # vLLM's types are not read
    """vLLM's request, without its check of the length: ours names the prompt's true length."""

    def build_tok_params(self, model_config: ModelConfig) -> TokenizeParams:
        """Check and cut as vLLM does, but for the length."""
        params = super().build_tok_params(model_config)
        return replace(params, max_total_tokens=None, max_output_tokens=0)


def default_sampling(config: ModelConfig) -> pb.Sampling:
    """Say what unset fields of `Sampling` mean for a model."""
    known = pb.Sampling.DESCRIPTOR.fields_by_name
    defaults: Mapping[str, Any] = config.get_diff_sampling_param()
    return pb.Sampling(**{name: value for name, value in defaults.items() if name in known})
