"""Dequantizes a GGUF file into a folder that vLLM loads. It knows nothing of downloads and caches.

    python -m talkwire_server.dequantize FILE.gguf FOLDER

It is a program of its own: torch leaves threads behind that must not be there when an engine forks.
"""

import sys
from pathlib import Path


def dequantize(gguf: Path, folder: Path) -> None:
    """Write the weights in bfloat16, the tokenizer and the chat template of a GGUF to a folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # Traces of how they were loaded, which say nothing about the model.
    vars(model.config).pop("_model_name_or_path", None)
    for key in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(key, None)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    dequantize(Path(sys.argv[1]), Path(sys.argv[2]))
