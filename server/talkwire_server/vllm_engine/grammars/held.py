"""The engine's side: a grammar that is followed in a process of its own.

vLLM asks which tokens may follow while all answers wait, and xgrammar may take hours to tell.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.v1.request import Request
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from talkwire_server.vllm_engine.grammars.peer import Peer, name_of
from talkwire_server.vllm_engine.grammars.plain import is_plain


class Grammar(StructuredOutputGrammar):  # type: ignore[misc]  # vLLM's types are not read
    """Asks that process. When it is over its limits, the next token ends the answer."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._over = False

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Go on with tokens; false where they are not allowed, or nobody can tell."""
        return bool(self._ask("accept_tokens", request_id, tokens))

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """Return the first of some tokens that are allowed."""
        return self._ask("validate_tokens", tokens) or []

    def rollback(self, num_tokens: int) -> None:
        """Go back."""
        self._ask("rollback", num_tokens)

    def fill_bitmask(self, bitmask: torch.Tensor, batch_index: int) -> None:
        """Say which tokens may follow; any, where nobody can tell."""
        if mask := self._ask("fill_bitmask"):
            bitmask[batch_index].copy_(torch.frombuffer(bytearray(mask), dtype=torch.int32))
        else:
            bitmask[batch_index].fill_(-1)

    def is_terminated(self) -> bool:
        """Tell whether nothing may follow."""
        return self._over

    def reset(self) -> None:
        """Begin again."""
        self._ask("reset")

    def _ask(self, *question: Any) -> Any:
        try:
            result, self._over = self._peer.ask(*question)
        except EOFError:
            return None
        return result


def hold_grammars(config: VllmConfig) -> None:
    """Have an engine of this configuration leave what is not plain to other processes.

    vLLM lets its scheduler be replaced, and gives it what compiles.
    """
    of_engine = config.scheduler_config
    of_engine.scheduler_cls = partial(_scheduler, of_engine.get_scheduler_cls())


def _scheduler(
    made_by: Callable[..., Any],
    *,
    vllm_config: VllmConfig,
    structured_output_manager: StructuredOutputManager,
    **others: Any,
) -> Any:
    compiled_here = structured_output_manager._create_grammar

    def compiled(request: Request) -> StructuredOutputGrammar:
        key = request.structured_output_request.structured_output_key
        if is_plain(*key):
            return compiled_here(request)
        peer = Peer(name_of(key))
        constraint, sampling = request.structured_output_request.params, request.sampling_params
        if fault := peer.begin(constraint, sampling.all_stop_token_ids):
            raise ValueError(fault)
        return Grammar(peer)

    structured_output_manager._create_grammar = compiled
    return made_by(
        vllm_config=vllm_config, structured_output_manager=structured_output_manager, **others
    )
