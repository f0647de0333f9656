"""vLLM's worker on a CPU, with seeds that outlive a prompt computed in parts.

A prompt longer than a step's tokens, or beside many others, takes several steps. vLLM samples in
each of them, and rewinds the random numbers of a request where the sample is thrown away; but only
a GPU's generator can rewind: a CPU's raises, and the engine dies (0.32 and 0.33).
"""

from typing import Any

import numpy as np
from vllm.v1.worker.cpu_model_runner import CPUModelRunner
from vllm.v1.worker.cpu_worker import CPUWorker

from talkwire_server.signals import end_with_parent


class Runner(CPUModelRunner):  # type: ignore[misc]  # vLLM's types are not read
    """Puts a generator's whole state back, where vLLM would rewind it."""

    def _sample(self, *args: Any, **kwargs: Any) -> Any:
        in_parts = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0]
        generators = [self.input_batch.generators.get(int(i)) for i in in_parts]
        states = [(one, one.get_state()) for one in generators if one]
        output = super()._sample(*args, **kwargs)
        for generator, state in states:
            generator.set_state(state)
        return output

    def _bookkeeping_sync(self, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        generators, batch.generators = batch.generators, {}
        try:
            return super()._bookkeeping_sync(*args, **kwargs)
        finally:
            batch.generators = generators


class Worker(CPUWorker):  # type: ignore[misc]
    """Has such a runner."""

    model_runner: Any

    def init_device(self) -> None:
        """Make the runner, and do not outlive the server."""
        end_with_parent()
        super().init_device()
        if type(self.model_runner) is CPUModelRunner:  # vLLM's second runner draws otherwise
            self.model_runner = Runner(self.vllm_config, self.device)
