"""A tiny model that sees: an Idefics3 of random weights with the embedded model's tokenizer."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL.Image import Image

from talkwire_server import model

SIDE, PATCH, SCALE = 64, 16, 2
IMAGE_TOKENS = (SIDE // PATCH // SCALE) ** 2
"""What a picture of any size becomes, between three tokens that frame it."""

OWN_TOKENS = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>"]

# Keeps the order of texts and pictures, as the templates of real Idefics3 do.
TEMPLATE = """{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}\
{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def build(folder: Path) -> Path:
    """Make the model in a folder, in float32 and the same every time; takes some seconds."""
    transformers, torch = _libraries()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model.prepare())
    tokenizer.add_special_tokens({"additional_special_tokens": OWN_TOKENS})
    torch.manual_seed(0)
    network = transformers.Idefics3ForConditionalGeneration(_config(transformers, tokenizer))
    for name, weights in network.named_parameters():
        # What a picture passes through is well above the noise of the words: it must matter.
        if "connector" in name:
            weights.data.normal_(0, 0.5)
        elif "vision_model" in name and "norm" not in name and weights.dim() > 1:
            weights.data.normal_(0, 0.2)
    network.save_pretrained(folder)
    pictures = transformers.Idefics3ImageProcessorPil(  # the other one needs torchvision
        size={"longest_edge": SIDE}, max_image_size={"longest_edge": SIDE}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(
        pictures, tokenizer, image_seq_len=IMAGE_TOKENS, chat_template=TEMPLATE
    )
    processor.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2}))
    return folder


class Reference:
    """The same model as transformers itself runs it."""

    def __init__(self, folder: Path) -> None:
        transformers, self._torch = _libraries()
        self._processor = transformers.AutoProcessor.from_pretrained(folder)
        self._model = transformers.Idefics3ForConditionalGeneration.from_pretrained(folder).eval()

    def logprobs(self, parts: Sequence[str | Image]) -> Any:
        """Say how likely each token is to begin the answer to a user's texts and pictures."""
        content = [
            {"type": "text", "text": part} if isinstance(part, str) else {"type": "image"}
            for part in parts
        ]
        prompt = self._processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        pictures = [part for part in parts if not isinstance(part, str)]
        inputs = self._processor(text=prompt, images=pictures, return_tensors="pt")
        with self._torch.inference_mode():
            return self._model(**inputs).logits[0, -1].log_softmax(-1).tolist()


def _config(transformers: Any, tokenizer: Any) -> Any:
    text = transformers.LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=4096,
        tie_word_embeddings=True,  # where vLLM looks; transformers looks below
        initializer_range=0.15,
    )
    vision = transformers.Idefics3VisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=1,
        image_size=SIDE,
        patch_size=PATCH,
        initializer_range=0.2,
    )
    return transformers.Idefics3Config(
        text_config=text,
        vision_config=vision,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=SCALE,
        tie_word_embeddings=True,
        pad_token_id=2,
    )


def _libraries() -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        import torch
        import transformers
    return transformers, torch
