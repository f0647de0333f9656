"""Rendering with other templates than the embedded model's, on the real renderer."""

import pytest

from support import RunningServer
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.errors import InvalidRequest
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings

STRICT = """{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Roles must alternate user/assistant/user/assistant') }}{% endif %}
{{ m.role }}={{ m.content }};{% endfor %}"""
MOODY = "{% for m in messages %}{{ m.content }}{% endfor %}|{{ mood }}|{{ level + 1 }}|{{ deep }}"


async def render(vllm: RunningServer, template: str, request: pb.ChatRequest) -> str:
    """Render with a template, through the engine's own tokenizer and back."""
    from talkwire_server.vllm_engine.engine import VllmEngine  # only now: it imports vLLM
    from talkwire_server.vllm_engine.prompt import Prompts

    assert isinstance(vllm.engine, VllmEngine)
    llm, settings = vllm.engine.llm, Settings(default_system="")
    prompts = Prompts(llm.vllm_config, llm.renderer, template, settings, MediaStore(settings))
    return (await prompts.prompt(Call("id", "model", request))).text


async def test_an_order_of_roles_that_the_template_refuses(vllm: RunningServer) -> None:
    """INVALID_ARGUMENT in the words of the template's author."""
    request = pb.ChatRequest(query="b", messages=[pb.Message(text="a")])
    with pytest.raises(InvalidRequest) as caught:
        await render(vllm, STRICT, request)

    (violation,) = caught.value.violations
    assert violation.field == "messages"
    assert violation.description == "Roles must alternate user/assistant/user/assistant"
    request.messages.append(pb.Message(role=pb.ROLE_ASSISTANT, text="c"))
    assert "assistant=c;" in await render(vllm, STRICT, request)


async def test_template_variables_keep_their_types(vllm: RunningServer) -> None:
    """Whole numbers of a Struct reach the template as integers, also deep inside."""
    request = pb.ChatRequest(query="Hi")
    request.template.kwargs.update({"mood": "gay", "level": 41, "deep": {"a": [1, 2.5, True]}})

    assert await render(vllm, MOODY, request) == "Hi|gay|42|{'a': [1, 2.5, True]}"


CALLING = "{% for m in messages %}{{ m.content }}{{ m.tool_calls }}{% endfor %}"


@pytest.mark.parametrize("written", ['{"a": 1', "[1]", "[" * 50_000, ""])
async def test_wrong_arguments_do_not_end_a_conversation(vllm: RunningServer, written: str) -> None:
    """What a model once wrote wrong is shown to it as an empty object."""
    call = pb.ToolCall(id="1", name="f", arguments=written)
    request = pb.ChatRequest(
        messages=[
            pb.Message(role=pb.ROLE_ASSISTANT, tool_calls=[call]),
            pb.Message(role=pb.ROLE_TOOL, tool_call_id="1", text="error"),
        ]
    )

    assert "'arguments': {}" in await render(vllm, CALLING, request)
