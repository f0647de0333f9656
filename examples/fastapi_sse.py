"""A backend that streams answers to browsers; one that leaves stops the GPU.

Run `make serve` in another terminal, then `.venv/bin/uvicorn --app-dir examples fastapi_sse:app`,
and `curl --no-buffer "localhost:8000/chat?query=Hello"`. An EventSource in a browser must be
closed at "end", or it asks again.
"""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent

from talkwire import AsyncClient, AsyncStream, Error

client = AsyncClient(connect_timeout=3)  # one for all browsers
STATUSES = {"INVALID_ARGUMENT": 400, "RESOURCE_EXHAUSTED": 429, "UNAVAILABLE": 503}
app = FastAPI()


async def asked(query: str) -> AsyncIterator[AsyncStream]:
    """Ask; a refusal becomes an HTTP status. When the browser is gone, this block is left."""
    try:
        async with client.stream(query) as stream:
            yield stream
    except Error as error:
        raise HTTPException(STATUSES.get(error.code.name, 500), error.code.name) from None


@app.get("/chat", response_class=EventSourceResponse)
async def chat(stream: Annotated[AsyncStream, Depends(asked)]) -> AsyncIterator[ServerSentEvent]:
    """Send the text as it comes, and at last how it ended."""
    try:
        async for chunk in stream:
            yield ServerSentEvent(data=chunk.text)
        yield ServerSentEvent(event="end", data=stream.answer.finish_reason)
    except Error as error:
        yield ServerSentEvent(event="end", data=error.code.name)
