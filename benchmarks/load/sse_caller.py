"""The way to ask an OpenAI server: over HTTP, with its events in JSON."""

import json
from time import monotonic
from typing import Any, Self

import aiohttp

from load.chats import Chats, Reply


class SseCaller:
    """Asks an OpenAI server over HTTP, and reads its chunks out of JSON."""

    def __init__(self, port: int, chats: Chats) -> None:
        self._url = f"http://127.0.0.1:{port}/v1/chat/completions"
        self._chats = chats
        self.messages = 0

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=3600),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, prompt: int) -> Reply:
        """Ask, and read it event by event."""
        begun, at, text, finish, tokens = monotonic(), [], [], "", 0
        async with self._session.post(self._url, json=self._body(prompt)) as response:
            response.raise_for_status()
            rest = b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(b"\n\n")
                now = monotonic()
                for event in events:
                    self.messages += 1
                    if event == b"data: [DONE]":
                        continue
                    chunk = json.loads(event.removeprefix(b"data: "))
                    if chunk.get("usage"):
                        tokens = chunk["usage"]["completion_tokens"]
                    for choice in chunk["choices"]:
                        if piece := choice["delta"].get("content"):
                            text.append(piece)
                            at.append(now)
                        finish = choice["finish_reason"] or finish
        return Reply(prompt, begun, at, tokens, finish, "".join(text))

    def _body(self, prompt: int) -> dict[str, Any]:
        return {
            "messages": [{"role": "user", "content": self._chats.prompts[prompt]}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": self._chats.tokens,
            "ignore_eos": True,
        }
