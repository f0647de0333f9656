"""Ways to ask vLLM with token ids: in its own process, and through `vllm serve --grpc`."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from importlib import import_module
from itertools import count
from time import monotonic
from typing import Any, Self

from load.chats import Chats, Reply
from load.grpc_callers import GrpcCaller


def prompt_ids(chats: Chats) -> list[list[int]]:
    """Write the prompts as the model's chat template and tokenizer do."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(chats.model)
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, return_dict=False
        )
        for prompt in chats.prompts
    ]


class RawCaller:
    """Asks an `AsyncLLM` in this very process: what no server can do better than.

    It takes the flags of vLLM's engine.
    """

    def __init__(self, flags: Sequence[str], chats: Chats) -> None:
        self._flags = flags
        self._chats = chats
        self._ids = count()
        self.messages = 0

    async def __aenter__(self) -> Self:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its log has no file of its own
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.envs import enable_envs_cache
        from vllm.usage.usage_lib import UsageContext
        from vllm.utils.argparse_utils import FlexibleArgumentParser
        from vllm.utils.gc_utils import freeze_gc_heap
        from vllm.v1.engine.async_llm import AsyncLLM

        parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
        flags = AsyncEngineArgs.from_cli_args(parser.parse_args(list(self._flags)))
        self._prompts = await asyncio.to_thread(prompt_ids, self._chats)
        self._llm = AsyncLLM.from_engine_args(flags, usage_context=UsageContext.OPENAI_API_SERVER)
        enable_envs_cache()  # both as `talkwire serve` does
        freeze_gc_heap()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._llm.shutdown(timeout=20)
        del self._llm
        gc.unfreeze()
        gc.collect()  # else it outlives what it needs to end

    async def ask(self, prompt: int) -> Reply:
        """Ask, and read it output by output."""
        begun, at, text, ids, finish = monotonic(), [], [], [], ""
        async for output in self._generate(self._prompts[prompt]):
            (part,) = output.outputs
            at.append(monotonic())
            text.append(part.text)
            ids.extend(part.token_ids)
            finish = part.finish_reason or finish
        self.messages += len(at)
        return Reply(prompt, begun, at, len(ids), finish, "".join(text), ids)

    def _generate(self, ids: list[int]) -> AsyncIterator[Any]:
        from vllm.inputs.engine import tokens_input

        outputs: AsyncIterator[Any] = self._llm.generate(
            tokens_input(prompt_token_ids=ids), self._sampling, str(next(self._ids))
        )
        return outputs

    @cached_property
    def _sampling(self) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            temperature=0,
            max_tokens=self._chats.tokens,
            ignore_eos=True,
            output_kind=RequestOutputKind.DELTA,
        )


class VllmGrpcCaller(GrpcCaller):
    """Asks `vllm serve --grpc`, which takes and gives token ids; nobody makes text of them."""

    def __init__(self, port: int, chats: Chats) -> None:
        super().__init__(port, chats)
        package: Any = import_module("smg_grpc_proto")
        self._pb = package.vllm_engine_pb2
        self._stub = package.vllm_engine_pb2_grpc.VllmEngineStub(self._channel)
        self._prompts = prompt_ids(chats)
        self._ids = count()

    async def ask(self, prompt: int) -> Reply:
        """Ask, and read it message by message."""
        request, at, ids, finish = self._request(self._prompts[prompt]), [], [], ""
        begun = monotonic()
        async for message in self._stub.Generate(request):
            if message.HasField("chunk"):
                at.append(monotonic())
                ids.extend(message.chunk.token_ids)
            else:  # says the last tokens once more
                finish = message.complete.finish_reason
        return Reply(prompt, begun, at, len(ids), finish, token_ids=ids)

    def _request(self, ids: Sequence[int]) -> Any:
        sampling = self._pb.SamplingParams(
            temperature=0,
            top_p=1,
            repetition_penalty=1,
            max_tokens=self._chats.tokens,
            ignore_eos=True,
            skip_special_tokens=True,
            n=1,
        )
        return self._pb.GenerateRequest(
            request_id=f"{id(self)}-{next(self._ids)}",
            tokenized=self._pb.TokenizedInput(input_ids=ids),
            sampling_params=sampling,
            stream=True,
        )
