"""Plain text costs what it did before there were parsers: none is built for it."""

from typing import Any

from support import RunningServer, make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call

TOOLS = [{"function": {"name": "now"}}]


async def test_no_parser_is_built_for_plain_text(vllm: RunningServer) -> None:
    """The server has one; but only where the model may call tools does each answer have its own."""
    engine: Any = vllm.engine  # a VllmEngine; asked for its jobs, which are its own business
    assert engine.models[0].tools

    async def readings(**asked: object) -> int:
        call = Call("id", engine.models[0].id, make(pb.ChatRequest, query="Hi", **asked))
        return len((await engine.generation._jobs.make(call)).readings)

    assert await readings() == 0
    assert await readings(n=3, output_format={"regex": "a"}, include={"logprobs": 1}) == 0
    assert await readings(tools=TOOLS, tool_choice={"mode": pb.ToolChoice.MODE_NONE}) == 0
    assert await readings(tools=TOOLS) == 1
    assert await readings(tools=TOOLS, n=3) == 3
