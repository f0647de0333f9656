"""The least that serves the same deltas as the echo engine: over bare gRPC, and as SSE.

    python benchmarks/load/baselines.py grpc|sse PORT DELAY

Both say the words of the last message, one every DELAY seconds, all answers in step as the echo
engine's are, and check nothing.
"""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import grpc
import uvicorn
import uvloop
from grpc_health.v1 import health, health_pb2_grpc
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc

_WORD = re.compile(r"\s*\S+")


class Clock:
    """The steps of an engine: all answers take them together."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._waiting: list[asyncio.Future[None]] = []

    async def step(self) -> None:
        """Wait for the next one."""
        if not self._delay:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_later(self._delay, self._wake)
        self._waiting.append(loop.create_future())
        await self._waiting[-1]

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():  # its reader has left
                one.set_result(None)


async def words(text: str, clock: Clock) -> AsyncIterator[str]:
    """Say a text."""
    for word in _WORD.findall(text):
        await clock.step()
        yield word


class BareService(chat_pb2_grpc.ChatServiceServicer):
    """Knows one method."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    async def ChatStream(self, request: pb.ChatRequest, _: Any) -> AsyncIterator[Any]:
        """Say the query, then how long it was."""
        tokens = 0
        async for word in words(request.query, self._clock):
            tokens += 1
            yield pb.ChatStreamResponse(text=word)
        usage = pb.Usage(completion_tokens=tokens)
        yield pb.ChatStreamResponse(finish_reason=pb.FINISH_REASON_STOP, usage=usage)


async def serve_grpc(port: int, clock: Clock) -> None:
    """Serve it."""
    server = grpc.aio.server()
    service = BareService(clock)  # type: ignore[abstract]  # one method is enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    health_pb2_grpc.add_HealthServicer_to_server(health.aio.HealthServicer(), server)  # type: ignore[attr-defined]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


async def events(text: str, clock: Clock) -> AsyncIterator[str]:
    """Say a text as vLLM's OpenAI server would: the role, the words, the end, the usage."""
    head = {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": "echo",
    }

    def event(delta: dict[str, str], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return f"data: {json.dumps({**head, 'choices': [choice]})}\n\n"

    yield event({"role": "assistant", "content": ""})
    tokens = 0
    async for word in words(text, clock):
        tokens += 1
        yield event({"content": word})
    yield event({}, "stop")
    yield f"data: {json.dumps({**head, 'choices': [], 'usage': {'completion_tokens': tokens}})}\n\n"
    yield "data: [DONE]\n\n"


async def serve_sse(port: int, clock: Clock) -> None:
    """Serve them with Starlette and uvicorn, as vLLM does."""

    async def chat(request: Request) -> Response:
        text = (await request.json())["messages"][-1]["content"]
        return StreamingResponse(events(text, clock), media_type="text/event-stream")

    def well(_: Request) -> Response:
        return Response()

    routes = [Route("/v1/chat/completions", chat, methods=["POST"]), Route("/health", well)]
    config = uvicorn.Config(
        Starlette(routes=routes), port=port, log_level="warning", timeout_keep_alive=3600
    )
    await uvicorn.Server(config).serve()


if __name__ == "__main__":
    kind, port, delay = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    uvloop.run((serve_grpc if kind == "grpc" else serve_sse)(port, Clock(delay)))
