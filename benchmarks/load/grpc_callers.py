"""Ways to ask over gRPC: as users do with AsyncClient, and with the bare stub."""

from collections.abc import Callable, Mapping
from math import inf
from time import monotonic
from typing import Any, Self

import grpc

from load.chats import Chats, Reply
from talkwire import AsyncClient
from talkwire._replica_async import AsyncReplica
from talkwire._replicas_async import AsyncReplicas
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import ChatServiceStub


class CountingChannel:
    """A gRPC channel that has the messages counted that come in over its streams."""

    def __init__(self, channel: grpc.aio.Channel, counter: Any) -> None:
        self._channel = channel
        self._counter = counter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    def unary_stream(self, method: str, **options: Any) -> Any:
        """Count what a server streams."""
        return self._channel.unary_stream(method, **self._counted(options))

    def stream_stream(self, method: str, **options: Any) -> Any:
        """Count what comes over a stream of both sides."""
        return self._channel.stream_stream(method, **self._counted(options))

    def _counted(self, options: dict[str, Any]) -> dict[str, Any]:
        decode: Callable[[bytes], Any] = options["response_deserializer"]

        def count(message: bytes) -> Any:
            self._counter.messages += 1
            return decode(message)

        return {**options, "response_deserializer": count}


class CountingReplica(AsyncReplica):
    """A server of a client that counts on all of its channels."""

    messages = 0

    def _open(self, *, anew: bool) -> Any:
        return CountingChannel(super()._open(anew=anew), self)


class CountingReplicas(AsyncReplicas):
    """All of them."""

    _kind = CountingReplica


class CountingClient(AsyncClient):
    """A client that counts."""

    _gather = CountingReplicas

    @property
    def messages(self) -> int:
        """How many came."""
        return sum(
            one.messages for one in self._replicas.places if isinstance(one, CountingReplica)
        )


class GrpcCaller:
    """What the callers of a bare stub have in common: a channel that counts."""

    messages = 0
    """How many came."""

    def __init__(self, port: int, chats: Chats) -> None:
        self._chats = chats
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._channel: Any = CountingChannel(channel, self)

    async def __aenter__(self) -> Self:
        await self._channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()


class TalkwireCaller:
    """Asks as users do, with `AsyncClient`; each chat is a call of its own."""

    options: Mapping[str, Any] = {}

    def __init__(self, port: int, chats: Chats) -> None:
        self._chats = chats
        self._client = CountingClient(
            f"127.0.0.1:{port}",
            timeout=inf,
            max_tokens=chats.tokens,
            temperature=0,
            ignore_eos=True,
            **self.options,
        )

    @property
    def messages(self) -> int:
        """How many came."""
        return self._client.messages

    async def __aenter__(self) -> Self:
        await self._client.channel.channel_ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def ask(self, prompt: int) -> Reply:
        """Ask, and read it chunk by chunk."""
        begun = monotonic()
        async with self._client.stream(self._chats.prompts[prompt]) as stream:
            at = [monotonic() async for _ in stream]
        answer = stream.answer
        tokens = answer.usage.completion_tokens
        return Reply(prompt, begun, at, tokens, str(answer.finish_reason), answer.text)


class MultiplexCaller(TalkwireCaller):
    """The same, with all chats of the process over one call."""

    options: Mapping[str, Any] = {
        "multiplex": True,
        # What a stream moved away from stays open: its bytes are counted to the end.
        "channel_options": [("grpc.client_idle_timeout_ms", 2**31 - 1)],
    }


class StubCaller(GrpcCaller):
    """Asks with the generated stub and nothing else."""

    def __init__(self, port: int, chats: Chats) -> None:
        super().__init__(port, chats)
        self._stub: Any = ChatServiceStub(self._channel)

    async def ask(self, prompt: int) -> Reply:
        """Ask, and read it message by message."""
        request, at, text = pb.ChatRequest(query=self._chats.prompts[prompt]), [], []
        begun = monotonic()
        async for delta in self._stub.ChatStream(request):
            at.append(monotonic())
            text.append(delta.text)
        finish = pb.FinishReason.Name(delta.finish_reason).removeprefix("FINISH_REASON_").lower()
        tokens = delta.usage.completion_tokens
        return Reply(prompt, begun, at, tokens, finish, "".join(text))
