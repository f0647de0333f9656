"""Folders of models for benchmarks: a shape, the embedded model's words, and weights made here.

    python benchmarks/load/models.py tiny|half-b DIR      (a tokenizer that is there is kept)

They answer with a walk through the vocabulary that begins at the last word they were told: each
token tells the next one. So answers differ, no word in them comes twice, and each is the same in
any batch, in bfloat16, too. The layers compute as any model's do, but change nothing.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

from talkwire_server import model

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' + messages[-1]['content'] }}"
    "{% endif %}"
)
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
    },
    "half-b": {  # 0.54 billion weights
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
    "initializer_range": 0.001,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "torch_dtype": "bfloat16",
}


def build(shape: str, folder: Path) -> Path:
    """Make a folder for a Llama of one of the shapes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(COMMON | SHAPES[shape], indent=2))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    for name in TOKENIZER:
        if not (folder / name).exists():
            shutil.copy(model.prepare() / name, folder)
    _weigh(folder)
    return folder


def _weigh(folder: Path) -> None:
    """Write the weights: the head's row of a token is the embedding of the one before it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = AutoModelForCausalLM.from_config(
        AutoConfig.from_pretrained(folder), dtype=torch.bfloat16
    )
    embeddings = made.get_input_embeddings().weight.data.normal_()
    texts = tokenizer.batch_decode([[token] for token in range(len(embeddings))])
    special = {*tokenizer.all_special_ids}
    walk = torch.tensor(
        [token for token, text in enumerate(texts) if "\ufffd" not in text and token not in special]
    )
    walk = walk[torch.randperm(len(walk))]
    head = made.get_output_embeddings().weight.data.zero_()
    head[walk] = embeddings[walk.roll(1)]
    made.save_pretrained(folder)


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
