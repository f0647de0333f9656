"""How vLLM's engine is run, the same for each server: its model, flags and environment."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from load import models
from talkwire_server import model
from talkwire_server.vllm_engine import installed

# As `talkwire serve` has them on a CPU.
CPU_FLAGS = (
    "--dtype=float32",
    "--enforce-eager",
    "--distributed-executor-backend=uni",
    "--max-num-batched-tokens=1024",
    f"--kv-cache-memory-bytes={1 << 30}",
)
CPU_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "TORCHDYNAMO_DISABLE": "1"}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "3600",  # connections live on between runs
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_V1_OUTPUT_PROC_CHUNK_SIZE": "512",  # as `talkwire serve` has it
}


class EngineSetup:
    """What there is to say to vLLM; sets the environment of this process and its children.

    Args:
        name: `tiny`, `half-b`, `embedded`, or a model's folder; or `steps`: `tiny`, but its steps
            compute nothing (`load.steps`).
        streams: How many answers it shall generate at once.
        given: Flags that go last, and win.
        temporary: A folder for a model that is made.

    Attributes:
        folder: The model's.
        flags: Of the engine.
        exact: Whether an answer is the same in any batch.

    """

    def __init__(self, name: str, streams: int, given: Sequence[str], temporary: Path) -> None:
        _, self.exact = installed()  # in float32 on a CPU
        os.environ.update(ENVIRONMENT | (CPU_ENVIRONMENT if self.exact else {}))
        steps, name = name == "steps", "tiny" if name == "steps" else name
        if name == "embedded":
            self.folder = model.prepare()
        else:
            self.folder = models.build(name, temporary) if name in models.SHAPES else Path(name)
        self.flags = [
            f"--model={self.folder}",
            f"--max-num-seqs={max(64, streams)}",
            "--max-model-len=2048",
            "--generation-config=vllm",  # nothing but what a request says
            "--no-enable-prefix-caching",  # prompts come again, for one way as for the next
        ]
        if not [*self.folder.glob("*.safetensors")]:
            self.flags.append("--load-format=dummy")
        if steps:
            if not self.exact:
                sys.exit("steps are those of vLLM's CPU build")
            path = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]  # for `load`
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
            given = ["--worker-cls=load.steps.Worker", "--max-num-batched-tokens=8192", *given]
        self.flags += [*(CPU_FLAGS if self.exact else ()), *given]
