"""Short chats of plain text take a short way to their tokens; it leads where vLLM's own does."""

from typing import Any

import pytest

from support import RunningServer, make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.errors import InvalidRequest
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings

SAMPLING = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 7,
    "min_p": 0.1,
    "max_tokens": 9,
    "min_tokens": 2,
    "stop": ["a", "bc"],
    "stop_token_ids": [5, 6],
    "include_stop": True,
    "ignore_eos": True,
    "seed": 3,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "repetition_penalty": 1.1,
    "logit_bias": {7: 1.5},
    "bad_words": ["bad"],
    "allowed_token_ids": [7, 8, 9],
    "skip_special_tokens": False,
}
SAID = "Hi", " Größe\n\n你好 🙂\t", "<|im_start|>user", "x" * 900, "a\u0301\u200b\r\n", "{{ 7 }}"
ROLES = pb.ROLE_USER, pb.ROLE_ASSISTANT
REQUESTS = [
    *(pb.ChatRequest(query=text) for text in SAID),
    *(pb.ChatRequest(system=text, query="Go on.") for text in ("", *SAID)),
    *(
        pb.ChatRequest(messages=[pb.Message(role=role, text=text) for role in (*ROLES, *ROLES)])
        for text in SAID[:3]
    ),
    *(make(pb.ChatRequest, query="Hi", sampling={name: SAMPLING[name]}) for name in SAMPLING),
    make(pb.ChatRequest, query="Hi", sampling=SAMPLING, n=3, request_id="id"),
    make(pb.ChatRequest, query="Hi", sampling={"stop": list(map(str, range(64)))}),
]
MISTRAL = """{{ bos_token }}{% for m in messages %}
{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]
{%- elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}
{%- else %}{{ raise_exception('Only user and assistant roles') }}{% endif %}{% endfor %}"""
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part.text }}{% endfor %}{% endfor %}"


async def renderer(vllm: RunningServer, template: str | None) -> Any:
    """Make what renders a model's chats, with a template of its own."""
    from talkwire_server.vllm_engine.prompt import Prompts  # only now: it imports vLLM

    engine: Any = vllm.engine  # a VllmEngine
    llm, settings = engine.llm, Settings(default_system="You are short.")
    prompts = Prompts(llm.vllm_config, llm.renderer, template, settings, MediaStore(settings))
    await prompts.warmup()
    return prompts


async def refuse(*_: object) -> None:
    raise AssertionError("asked in vLLM's way")


@pytest.mark.parametrize("template", [None, MISTRAL, PARTS])
async def test_both_ways_lead_to_the_same(vllm: RunningServer, template: str | None) -> None:
    """Prompt, tokens and sampling are equal: texts of all kinds, each field of the sampling."""
    short, long = await renderer(vllm, template), await renderer(vllm, template)
    short._by_vllm, long._plain = refuse, None
    sampled = {"temperature": 0.3, "stop_token_ids": [2]}
    for asked in REQUESTS:
        if template == MISTRAL:
            asked = make(pb.ChatRequest, query="Hi", system="", sampling=asked.sampling)
        one, other = [await way.render(Call("id", "model", asked)) for way in (short, long)]

        assert one.prompt | {"arrival_time": 0} == other.prompt | {"arrival_time": 0}
        assert one.request.to_sampling_params(5, sampled) == other.request.to_sampling_params(
            5, sampled
        )
        assert one.request == other.request


LONG = [
    make(pb.ChatRequest, query="Hi", sampling={"max_tokens": 2049}),
    pb.ChatRequest(query="x" * 2000),
    pb.ChatRequest(query="Hi", system="x" * 2000),
    pb.ChatRequest(query="Hi", messages=[pb.Message(role=pb.ROLE_ASSISTANT)] * 64),
]


@pytest.mark.parametrize("asked", LONG)
async def test_what_is_long_takes_vllms_way(vllm: RunningServer, asked: pb.ChatRequest) -> None:
    """Through its threads, and its checks. An empty message has a length, too."""
    prompts = await renderer(vllm, None)
    prompts._by_vllm = refuse
    with pytest.raises(AssertionError, match="in vLLM's way"):
        await prompts.render(Call("id", "model", asked))


async def test_a_template_refuses_in_its_own_words(vllm: RunningServer) -> None:
    """What the short way cannot say is said by vLLM's."""
    prompts = await renderer(vllm, MISTRAL)
    assert prompts._plain
    with pytest.raises(InvalidRequest) as caught:
        await prompts.prompt(Call("id", "model", pb.ChatRequest(query="Hi", system="Be brief.")))

    (violation,) = caught.value.violations
    assert (violation.field, violation.description) == ("messages", "Only user and assistant roles")
