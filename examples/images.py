"""Show the model a picture; it needs a model that sees.

Run `make serve ARGS="--model HuggingFaceTB/SmolVLM-256M-Instruct"` in another terminal, then
`.venv/bin/python examples/images.py`.
"""

import sys

from PIL import Image as Pillow

from talkwire import Client, Image

with Client(temperature=0, max_tokens=50) as client:
    model = client.model()
    if "image" not in model.input_modalities:
        sys.exit(f"{model.id} reads {', '.join(model.input_modalities)} only")

    picture = Image(Pillow.new("RGB", (64, 64), "red"))  # or Image.from_file("red.png")
    answer = client.chat(["Which colour is this?", picture])
    print(answer)
    print(f"{answer.usage.media_tokens} of {answer.usage.prompt_tokens} tokens were the picture")
