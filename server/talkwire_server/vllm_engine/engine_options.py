"""Which of vLLM's options may be `engine_options`: those that nothing else of a request says."""

from collections.abc import Iterable

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import StartError
from talkwire_server.vllm_engine.request import SPELLED

# Fields of vLLM's request that the contract types, that the server sets, or that only vLLM's HTTP
# server reads: no business of engine_options.
_OURS = {
    *(SPELLED.get(name, name) for name in pb.Sampling.DESCRIPTOR.fields_by_name),
    *("messages", "model", "tools", "tool_choice", "parallel_tool_calls", "n", "priority"),
    *("response_format", "structured_outputs", "reasoning_effort", "thinking_token_budget"),
    *("include_reasoning", "logprobs", "top_logprobs", "prompt_logprobs", "documents"),
    *("chat_template", "chat_template_kwargs", "add_generation_prompt", "continue_final_message"),
    *("truncate_prompt_tokens", "truncation_side", "cache_salt", "request_id", "max_tokens"),
    *("stream", "stream_options", "stream_interval", "echo", "use_beam_search", "user"),
    *("return_token_ids", "return_tokens_as_token_ids", "return_token_offsets"),
    *("return_prompt_text", "return_mm_kwargs", "mm_payload", "session_id", "length_penalty"),
    *("kv_transfer_params", "ec_transfer_params", "media_io_kwargs", "mm_processor_kwargs"),
    *("routed_experts_prompt_start", "logprob_token_ids"),
}


def check_engine_options(names: Iterable[str]) -> None:
    """Refuse what `--allow-engine-options` must not name. Raises StartError."""
    known = ChatCompletionRequest.model_fields.keys() - _OURS
    if strangers := sorted(set(names) - known):
        text = f"--allow-engine-options {' '.join(strangers)}: no such option, or not one alone"
        raise StartError(f"{text} of the engine; there is {', '.join(sorted(known))}")
