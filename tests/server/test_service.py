"""The rpcs as bare stubs see them: metadata, trailers, what is not there, what goes wrong."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from support import make, running, trailers
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub, ModelServiceStub
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import Call, Delta, Prompt
from talkwire_server.errors import EngineDead, QueueFull
from talkwire_server.server import Server
from talkwire_server.settings import Settings


async def test_the_request_id_is_in_the_initial_metadata(channel: grpc.aio.Channel) -> None:
    """`x-request-id` is sent on admission, and equals the id of the first message."""
    call = ChatServiceStub(channel).ChatStream(pb.ChatRequest(query="a b"))
    metadata = dict(await call.initial_metadata())
    first = await call.read()

    assert metadata["x-request-id"] == first.id  # type: ignore[attr-defined]
    call.cancel()


@pytest.mark.parametrize(
    ("stub", "method", "request_"),
    [
        (ChatServiceStub, "CountTokens", make(pb.CountTokensRequest, request={"query": "x"})),
        (ChatServiceStub, "Abort", pb.AbortRequest(id="x")),
        (ModelServiceStub, "ListModels", pb.ListModelsRequest()),
        (ModelServiceStub, "GetModel", pb.GetModelRequest()),
    ],
)
async def test_what_a_newer_contract_asks_is_refused(
    channel: grpc.aio.Channel, stub: Any, method: str, request_: Message
) -> None:
    """A field that this server does not know is named by its number, not ignored."""
    request_.MergeFromString(b"\xf8\x01\x01")
    with pytest.raises(grpc.aio.AioRpcError, match="field 31") as caught:
        await getattr(stub(channel), method)(request_)

    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_is_required_is_named(channel: grpc.aio.Channel) -> None:
    """Abort wants an id, CountTokens a request that could be answered."""
    stub = ChatServiceStub(channel)
    with pytest.raises(grpc.aio.AioRpcError, match="id: required"):
        await stub.Abort(pb.AbortRequest())
    with pytest.raises(grpc.aio.AioRpcError, match="query: required"):
        await stub.CountTokens(pb.CountTokensRequest())


@pytest.mark.parametrize("key", ["x" * 200, "\N{GRINNING FACE}" * 200, "\0" * 200])
@pytest.mark.parametrize("name", ["documents", "kwargs"])
async def test_however_many_and_long_the_names(
    channel: grpc.aio.Channel, key: str, name: str
) -> None:
    """Whatever callers call their fields, the status that names them reaches them."""
    fields = {f"{i}{key}": float("nan") for i in range(60)}
    template = {name: [fields] if name == "documents" else fields}
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError, match="more") as caught:
            await ChatServiceStub(channel).Chat(make(pb.ChatRequest, query="x", template=template))

        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert len(trailers(caught.value)["grpc-status-details-bin"]) < 6000


async def test_however_many_features_are_lacking(channel: grpc.aio.Channel) -> None:
    """The same holds for what a server does not support."""
    part = {"image": {"data": b"x", "cache_key": "k"}}
    request = make(pb.ChatRequest, messages=[{"parts": [part] * 3}] * 200)
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError, match="more") as caught:
            await ChatServiceStub(channel).Chat(request)

        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert len(trailers(caught.value)["grpc-status-details-bin"]) < 6000


async def test_more_faults_than_anybody_reads_are_not_looked_for(
    channel: grpc.aio.Channel,
) -> None:
    """Of thousands the first are named, and that there are more."""
    request = pb.ChatRequest(messages=[pb.Message()] * 9_000)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ChatServiceStub(channel).Chat(request)

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(caught.value.details()).endswith("; and more")


class Forgetful(EchoEngine):
    """An engine whose model is gone as soon as it was asked for."""

    async def render(self, call: Call) -> Prompt:
        """Forget, then render."""
        self.models = []
        return await super().render(call)


async def test_tokens_are_counted_of_a_model_that_leaves() -> None:
    """An adapter that is unloaded in the meantime does not fail those that it was there for."""
    engine = Forgetful(["echo"], "", 0)
    async with running(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        request = make(pb.CountTokensRequest, request={"query": "a b"})
        count = await ChatServiceStub(channel).CountTokens(request)

    assert (count.prompt_tokens, count.max_context_tokens) == (2, 8192)


class Broken(EchoEngine):
    """An engine that fails as it is told."""

    def __init__(self, error: Exception) -> None:
        super().__init__(["echo"], "", 0)
        self._error = error

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Say one word, then fail."""
        yield Delta(text="one")
        raise self._error


@pytest.mark.parametrize(
    ("error", "code", "reason", "retry"),
    [
        (KeyError("/etc/secret"), grpc.StatusCode.INTERNAL, "ENGINE_FAILURE", None),
        (EngineDead(), grpc.StatusCode.UNAVAILABLE, "ENGINE_DEAD", None),
        (QueueFull(), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "1000"),
        (QueueFull(0.0001), grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "1"),
    ],
)
async def test_a_failing_engine(
    error: Exception, code: grpc.StatusCode, reason: str, retry: str | None
) -> None:
    """What came is delivered, then a status that tells nothing internal."""
    engine = Broken(error)
    async with running(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        call = ChatServiceStub(channel).ChatStream(pb.ChatRequest(query="x", request_id="r"))
        first = await call.read()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()

    trailer = trailers(caught.value)
    status = status_pb2.Status.FromString(trailer["grpc-status-details-bin"])
    info = error_details_pb2.ErrorInfo()
    assert first.text == "one"  # type: ignore[attr-defined]
    assert caught.value.code() is code
    assert status.details[0].Unpack(info)
    assert (info.reason, info.domain, info.metadata["request_id"]) == (reason, "talkwire", "r")
    assert trailer.get("grpc-retry-pushback-ms") == retry
    assert "secret" not in str(status)


async def test_a_server_that_loads_refuses_with_a_delay() -> None:
    """MODEL_LOADING before `load`, with RetryInfo, and the models are already described."""
    server = Server(Settings(port=0), EchoEngine(["echo"], "", 0))
    await server.listen()
    async with grpc.aio.insecure_channel(server.address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ChatServiceStub(channel).Chat(pb.ChatRequest(query="x"))
        models = await ModelServiceStub(channel).ListModels(pb.ListModelsRequest())
    await server.close()

    trailer = trailers(caught.value)
    details = status_pb2.Status.FromString(trailer["grpc-status-details-bin"]).details
    retry = error_details_pb2.RetryInfo()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert details[1].Unpack(retry)
    assert retry.retry_delay.seconds == 1
    assert [model.id for model in models.models] == ["echo"]


async def test_models_come_in_pages() -> None:
    """`page_size` and `page_token` walk through the list; bad ones are named together."""
    engine = EchoEngine(["a"], "", 0)
    engine.models = [pb.Model(id=name) for name in "abc"]
    async with running(engine) as server, grpc.aio.insecure_channel(server.target) as channel:
        stub = ModelServiceStub(channel)
        first = await stub.ListModels(pb.ListModelsRequest(page_size=2))
        rest = await stub.ListModels(pb.ListModelsRequest(page_token=first.next_page_token))
        with pytest.raises(grpc.aio.AioRpcError, match=r"page_size.*page_token"):
            await stub.ListModels(pb.ListModelsRequest(page_size=-1, page_token="x"))

    assert [model.id for model in first.models] == ["a", "b"]
    assert [model.id for model in rest.models] == ["c"]
    assert not rest.next_page_token


async def test_a_stalled_reader_costs_no_other(channel: grpc.aio.Channel) -> None:
    """A stream that nobody reads does not hold up the next call; its end frees it."""
    stub = ChatServiceStub(channel)
    stalled = stub.ChatStream(pb.ChatRequest(query="word " * 8000, system=""))
    await stalled.initial_metadata()

    answer = await asyncio.wait_for(stub.Chat(pb.ChatRequest(query="x")), 20)

    assert answer.message.text == "x"
    stalled.cancel()
