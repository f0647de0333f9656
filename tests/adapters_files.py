"""LoRA adapters of the embedded model, made of random numbers: tiny, and enough to say else."""

import json
from pathlib import Path
from typing import Any

import numpy as np

LAYERS, HIDDEN, KEYS = 30, 576, 192  # SmolLM2-135M's


def make_adapter(
    folder: Path, seed: int = 0, hidden: int = HIDDEN, key: str = "v_proj", **config: Any
) -> Path:
    """Write an adapter as PEFT does; the config's own fields go first. Return its folder."""
    from safetensors.numpy import save_file

    rank = config.get("r", 4)
    random = np.random.default_rng(seed)

    def weights(*shape: int) -> np.ndarray[Any, Any]:
        return (random.standard_normal(shape) * 0.1).astype(np.float32)

    tensors = {}
    for layer in range(LAYERS):
        for module, width in (("q_proj", hidden), (key, KEYS)):
            prefix = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{prefix}.lora_A.weight"] = weights(rank, hidden)
            tensors[f"{prefix}.lora_B.weight"] = weights(width, rank)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    fields = {"peft_type": "LORA", "r": rank, "lora_alpha": 8, "target_modules": ["q_proj", key]}
    (folder / "adapter_config.json").write_text(json.dumps(fields | config))
    return folder
