"""Whatever is asked, the answer is one that the contract names, and tells nothing of the inside."""

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from outcomes import Code, ended, written
from requests_strategy import chosen_seed, examples
from support import RunningServer
from talkwire import Accumulator
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import ChatServiceAsyncStub

COUNT = 20_000 if os.environ.get("TALKWIRE_FAULTS") == "full" else 5_000
AT_ONCE = 50


@pytest.mark.timeout(600)
async def test_no_request_breaks_the_server(
    echo: RunningServer, pytestconfig: pytest.Config
) -> None:
    """Chat, ChatStream and CountTokens agree on each of so many requests; refusals are clean."""
    requests = examples(COUNT, chosen_seed(pytestconfig))
    seen: Counter[str] = Counter()
    async with grpc.aio.insecure_channel(echo.target) as channel:
        stub = ChatServiceStub(channel)
        for start in range(0, COUNT, AT_ONCE):
            batch = requests[start : start + AT_ONCE]
            seen.update(await asyncio.gather(*(outcome(stub, request) for request in batch)))
        last = await stub.Chat(pb.ChatRequest(query="still there"))
    async with asyncio.timeout(30):
        await echo.server.admission.empty()

    print(f"{seen.total()} requests: {dict(seen)}")  # noqa: T201
    assert last.message.text == "still there"
    assert echo.engine.unfinished == 0
    assert seen.total() == COUNT
    assert min(seen["OK"], seen["INVALID_ARGUMENT"], seen["FAILED_PRECONDITION"]) > COUNT / 10


async def outcome(stub: "ChatServiceAsyncStub", request: pb.ChatRequest) -> str:
    """Send a request to all three methods; name the status, on which they agree."""
    count = await ended(request, stub.CountTokens(pb.CountTokensRequest(request=request)))
    whole = await ended(request, stub.Chat(request))
    parts = await ended(request, stream(stub, request))
    if Code.ALREADY_EXISTS in (whole, parts):
        return "ALREADY_EXISTS"  # another one has the id at the moment
    if not isinstance(whole, pb.ChatResponse):
        assert whole is parts, written(request)
        return str(whole.name)
    assert whole.usage.prompt_tokens == count.prompt_tokens, written(request)
    if not request.HasField("time_limit"):  # which comes when it comes
        assert alike(whole) == alike(parts), written(request)
    return "OK"


async def stream(stub: "ChatServiceAsyncStub", request: pb.ChatRequest) -> pb.ChatResponse:
    answer = Accumulator()
    async for delta in stub.ChatStream(request):
        answer.add(delta)
    return answer.response


def alike(answer: Any) -> str:
    """Leave out what differs between two answers to one request."""
    answer.ClearField("timing")
    return str(answer).replace(answer.id, "ID")
