"""How much a model thinks, on the real engine, with a template that opens a thought."""

import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from processes import launched
from talkwire import AsyncClient
from talkwire_server import model

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\nEffort: {{ reasoning_effort }}\n<think>"
)
QUERY = "Write a poem about the sea."
FLAGS = ("--max-model-len=512", "--kv-cache-memory-bytes=67108864", "--max-num-batched-tokens=512")


def marked(folder: Path) -> Path:
    """Make the embedded model with the marks of a thought as tokens, and a template of thoughts."""
    from conformance.markers import with_markers

    embedded = model.prepare()
    with_markers(str(embedded), folder)
    for weights in embedded.glob("*.safetensors"):
        (folder / weights.name).symlink_to(weights)
    (folder / "template.jinja").write_text(TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve it in a process of its own: two engines do not live in one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # vLLM's own
        folder = marked(tmp_path_factory.mktemp("thinker"))
    model, template = f"--model={folder}", f"--chat-template={folder / 'template.jinja'}"
    thinks = "--reasoning-parser=deepseek_r1"
    with launched("--engine=vllm", model, template, thinks, *FLAGS) as server:
        yield server.target


@pytest.mark.parametrize("budget", [1, 5, 20])
async def test_the_budget_of_thought_is_kept(target: str, budget: int) -> None:
    """At its end vLLM closes the thought, and the rest of the tokens are the answer's."""
    async with AsyncClient(target, temperature=0, max_tokens=40) as client:
        unbound = await client.chat(QUERY)
        bound = await client.chat(QUERY, reasoning={"max_tokens": budget})

    assert not unbound.text
    assert unbound.usage.reasoning_tokens == 40
    assert unbound.reasoning.startswith(bound.reasoning)
    assert bound.usage.reasoning_tokens == budget
    assert bound.text


async def test_the_effort_reaches_the_template(target: str) -> None:
    """In the words of vLLM, which are those of the field."""
    async with AsyncClient(target) as client:
        counted = await client.count_tokens(
            QUERY, reasoning={"effort": "high"}, include_prompt=True
        )
    assert "Effort: high\n<think>" in counted.prompt
