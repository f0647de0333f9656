"""vLLM's own way from a constraint to a grammar, without its engine. Knows no limits."""

from types import SimpleNamespace
from typing import Any

from vllm.config import VllmConfig
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.tokenizers import cached_tokenizer_from_config
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
from vllm.v1.structured_output.request import StructuredOutputRequest

from talkwire_server.vllm_engine.failures import reason


class Compiler:
    """Compiles with the backend that vLLM's configuration names."""

    def __init__(self, config: VllmConfig) -> None:
        self._config = config
        self._manager = StructuredOutputManager(config)
        self._manager._use_async_grammar_compilation = False
        if config.structured_outputs_config.backend in ("auto", "xgrammar"):
            self._manager.backend = XgrammarBackend(  # once, not in each process
                config,
                tokenizer=self._manager.tokenizer,
                vocab_size=config.model_config.get_vocab_size(),
            )
        fault(config, StructuredOutputsParams(regex="a"))  # imports what a check needs

    def fault(self, constraint: StructuredOutputsParams) -> str:
        """Say what vLLM has against a constraint; it may rewrite it."""
        return fault(self._config, constraint)

    def grammar(self, constraint: StructuredOutputsParams, stop_token_ids: set[int]) -> Any:
        """Compile a constraint that was checked. Returns the exception where that fails."""
        wanted = StructuredOutputRequest(constraint)
        sampling = SimpleNamespace(structured_outputs=constraint, all_stop_token_ids=stop_token_ids)
        self._manager.grammar_init(
            SimpleNamespace(
                request_id="", structured_output_request=wanted, sampling_params=sampling
            )
        )
        return wanted.grammar

    def bitmask(self) -> Any:
        """Make room for what tells which tokens may follow."""
        return self._manager.backend.allocate_token_bitmask(1)


def fault(config: VllmConfig, constraint: StructuredOutputsParams) -> str:
    """Say what vLLM's check has against a constraint, in its backend's words; empty if nothing."""
    try:
        SamplingParams(structured_outputs=constraint).verify(
            config.model_config,
            None,
            config.structured_outputs_config,
            cached_tokenizer_from_config(model_config=config.model_config),
        )
    except VLLMValidationError as error:
        return reason(error)
    return ""
