"""talkwire and vLLM's own HTTP server side by side: one engine, the same flags.

Imports vLLM; so import it only where a test runs.
"""

import json
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import copy
from queue import Empty, SimpleQueue
from typing import Any

import aiohttp
import grpc
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.output_processor import RequestOutputCollector

from conformance.cases import Flags
from conformance.normal import (
    REFUSED,
    Form,
    events,
    of_chunks,
    of_completion,
    of_refusal,
    of_response,
)
from conformance.openai_server import openai_server
from support import running
from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub
from talkwire_server.settings import Settings
from talkwire_server.vllm_engine.engine import VllmEngine

_REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}


class Separate(RequestOutputCollector):  # type: ignore[misc]  # vLLM's types are not read
    """Hands on each output by itself, as where the reader is never behind.

    vLLM merges those that come before they are read, and some of its parsers misread tokens that
    come at once.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._outputs = SimpleQueue[Any]()

    def put(self, output: Any) -> None:
        """Keep one more."""
        self._outputs.put(output)
        self.ready.set()

    async def get(self) -> Any:
        """Wait for the next."""
        while (output := self.get_nowait()) is None:
            self.ready.clear()
            await self.ready.wait()
        return output

    def get_nowait(self) -> Any:
        """Return the next, None if there is none yet."""
        try:
            output = self._outputs.get_nowait()
        except Empty:
            return None
        if isinstance(output, Exception):
            raise output
        return output


class Lent(VllmEngine):
    """Our engine over an AsyncLLM that is another's."""

    def __init__(self, llm: AsyncLLM, flags: Flags) -> None:
        config = copy(llm.vllm_config)
        config.structured_outputs_config = copy(config.structured_outputs_config)
        config.structured_outputs_config.reasoning_parser = flags.reasoning_parser
        settings = Settings(
            tool_call_parser=flags.tool_call_parser,
            default_system=flags.default_system,
            engine_options=flags.engine_options,
            # The prompts of formats hold what vLLM's server takes for control tokens.
            special_tokens_in_text="allow" if flags.markers else "escape",
        )
        names = [config.model_config.served_model_name]
        super().__init__(config, names, settings, flags.chat_template)
        self._building.set_result(llm)


class Twins:
    """Asks both servers."""

    def __init__(self, flags: Flags, stub: Any, http: aiohttp.ClientSession) -> None:
        self.stub = stub  # Any: typed as if it were the blocking one
        self._http = http

    async def ours(self, request: pb.ChatRequest) -> dict[str, Form]:
        """Ask talkwire, for one message and for a stream."""
        return {
            "unary": await self._answered(self.stub.Chat(request), request),
            "stream": await self._answered(_gathered(self.stub.ChatStream(request)), request),
        }

    async def _answered(self, call: Awaitable[pb.ChatResponse], asked: pb.ChatRequest) -> Form:
        try:
            return of_response(await call, asked)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _REFUSALS:
                raise
            return of_refusal(error)

    async def theirs(self, body: Mapping[str, Any], asked: pb.ChatRequest) -> dict[str, Form]:
        """Ask vLLM's HTTP server, for one message and for a stream."""
        body = {"return_token_ids": True, **body}
        made = await self.post("v1/chat/completions", body)
        return {
            "unary": of_completion(json.loads(made), asked) if made else REFUSED,
            "stream": await self._streamed(body, asked),
        }

    async def _streamed(self, body: Mapping[str, Any], asked: pb.ChatRequest) -> Form:
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        made = await self.post("v1/chat/completions", body)
        chunks = list(events(made))
        if errors := [chunk["error"] for chunk in chunks if "error" in chunk]:
            assert errors[0]["code"] < 500, errors
        return REFUSED if errors or not made else of_completion(of_chunks(chunks), asked)

    async def post(self, path: str, body: Mapping[str, Any]) -> str:
        """Send JSON to vLLM's HTTP server; return what it says, nothing if it refuses."""
        async with self._http.post(path, json=body) as response:
            text = await response.text()
            assert response.status < 500, text
            return text if response.ok else ""


async def _gathered(stream: AsyncIterable[pb.ChatStreamResponse]) -> pb.ChatResponse:
    answer = Accumulator()
    async for delta in stream:
        answer.add(delta)
    return answer.response


def _of_vllm(flags: Flags, name: str) -> Iterator[str]:
    """Spell flags as those of `vllm serve`."""
    yield f"--served-model-name={name}"
    if flags.tool_call_parser:
        yield "--enable-auto-tool-choice"
        yield f"--tool-call-parser={flags.tool_call_parser}"
    if flags.chat_template:
        yield f"--chat-template={flags.chat_template}"


@asynccontextmanager
async def twins(llm: AsyncLLM, flags: Flags) -> AsyncIterator[Twins]:
    """Serve an engine twice for the length of the block."""
    told = _of_vllm(flags, llm.model_config.served_model_name)
    async with (
        running(Lent(llm, flags)) as server,
        grpc.aio.insecure_channel(server.target) as channel,
        openai_server(llm, *told, reasoning_parser=flags.reasoning_parser) as url,
        aiohttp.ClientSession(
            url,
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(force_close=True),  # the server closes idle ones
        ) as http,
    ):
        yield Twins(flags, ChatServiceStub(channel), http)
