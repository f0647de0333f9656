"""A worker of vLLM that computes nothing, and waits about as long as a GPU would take for a step.

All else is vLLM's own: engine, scheduler, messages, detokenizer. So what a server adds to a fast
engine can be seen without a GPU. However many prompts a step reads, it takes the same for them.
Answers are those of the models of `load.models`.
"""

from time import monotonic, sleep
from typing import Any

from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput
from vllm.v1.worker.cpu_worker import CPUWorker

# Seconds: of a step, and of each answer in it. With what vLLM takes for a step on two cores, the
# bare engine says as many tokens a second in 64 answers as on one H200 (`engines-frontends-h200`).
STEP, EACH = 0.0025, 0.00002
# More, of a step in which prompts are read, however many: on an H200 the first token of one short
# prompt takes 10 ms, the next 1.5 ms.
READ = 0.008


class Worker(CPUWorker):  # type: ignore[misc]  # it has no types
    """Follows the walk through the vocabulary that the model's weights were made of."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        """Load the model; learn its walk."""
        super().load_model(*args, **kwargs)
        model: Any = self.model_runner.model
        embeddings, head = (
            layer.weight.data.float().numpy() for layer in (model.model.embed_tokens, model.lm_head)
        )
        tokens = {row.tobytes(): token for token, row in enumerate(embeddings)}
        self._next = {tokens[row.tobytes()]: token for token, row in enumerate(head) if row.any()}
        self._last = dict[str, int]()
        self._prompt = dict[str, int]()  # tokens of it that are left to read

    def execute_model(self, scheduler_output: SchedulerOutput) -> ModelRunnerOutput:
        """Say the next token of each request whose prompt was read, when the step is over."""
        begin = monotonic()
        for ended in scheduler_output.finished_req_ids:
            self._last.pop(ended, None)
            self._prompt.pop(ended, None)
        for new in scheduler_output.scheduled_new_reqs:
            assert new.prompt_token_ids
            self._last[new.req_id] = new.prompt_token_ids[-1]
            self._prompt[new.req_id] = len(new.prompt_token_ids) - new.num_computed_tokens
        assert not scheduler_output.scheduled_cached_reqs.resumed_req_ids  # all fit
        if not scheduler_output.num_scheduled_tokens:
            return EMPTY_MODEL_RUNNER_OUTPUT
        said = dict[str, list[int]]()
        reads = any(self._prompt[name] for name in scheduler_output.num_scheduled_tokens)
        for name, read in scheduler_output.num_scheduled_tokens.items():
            self._prompt[name] = max(0, self._prompt[name] - read)
            said[name] = []
            if not self._prompt[name]:
                # A prompt of another client's may end where no walk leads.
                self._last[name] = self._next.get(self._last[name], 0)
                said[name].append(self._last[name])
        sleep(max(0, begin + STEP + READ * reads + EACH * len(said) - monotonic()))
        numbers = {name: number for number, name in enumerate(said)}
        return ModelRunnerOutput([*said], numbers, [*said.values()])
