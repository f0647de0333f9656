"""Folders of models for benchmarks: a shape, and the embedded model's words. They have no weights.

python benchmarks/load/models.py tiny|half-b DIR        (then serve it with --load-format dummy)
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from talkwire_server import model

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    },
    "half-b": {  # 0.49 billion weights
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 64,
    },
}
COMMON = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49152,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "torch_dtype": "bfloat16",
}


def build(shape: str, folder: Path) -> Path:
    """Make a folder for a Llama of one of the shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(COMMON | SHAPES[shape], indent=2))
    for name in TOKENIZER:
        shutil.copy(model.prepare() / name, folder)
    return folder


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
