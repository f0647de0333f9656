"""What a type checker knows of the public API. A test has it checked; it is never run."""

from typing import assert_type

from talkwire import (
    Answer,
    AsyncClient,
    AsyncConversation,
    AsyncStream,
    Chunk,
    Client,
    Conversation,
    Error,
    FinishReason,
    Retry,
    Stream,
    Timing,
    Violation,
)
from talkwire_proto.v1 import chat_pb2 as pb


def blocking() -> None:
    with Client("localhost:50051", retry=Retry(attempts=2), temperature=0.5) as client:
        assert_type(client, Client)
        whole(client.chat("hi", system="", stop="x", timeout=1.0))
        whole(client.send(client.request("hi", max_tokens=5)))
        assert_type(client.models(), list[pb.Model])
        assert_type(client.model(), pb.Model)
        assert_type(client.ready(), bool)
        with client.stream("hi") as stream:
            assert_type(stream, Stream)
            for chunk in stream:
                piece(chunk)
            whole(stream.wait())
        conversation = client.conversation([pb.Message(text="hi")], system="Rhyme.")
        assert_type(conversation, Conversation)
        assert_type(conversation.fork(), Conversation)
        assert_type(conversation.undo(), str | None)
        whole(conversation.send("hi", seed=1))
        with conversation.stream("hi") as turn:
            assert_type(turn, Stream)
        client.chat("hi", temprature=0.5)  # type: ignore[call-arg]
        client.chat("hi", temperature="hot")  # type: ignore[arg-type]


async def asynchronous() -> None:
    async with AsyncClient("localhost:50051", retry=None, temperature=0.5) as client:
        assert_type(client, AsyncClient)
        whole(await client.chat("hi", system="", stop=["x"], timeout=1.0))
        whole(await client.send(client.request("hi", max_tokens=5)))
        assert_type(await client.models(), list[pb.Model])
        assert_type(await client.model(), pb.Model)
        assert_type(await client.ready(), bool)
        async with client.stream("hi") as stream:
            assert_type(stream, AsyncStream)
            async for chunk in stream:
                piece(chunk)
            whole(await stream.wait())
        conversation = client.conversation([pb.Message(text="hi")], system="Rhyme.")
        assert_type(conversation, AsyncConversation)
        assert_type(conversation.fork(), AsyncConversation)
        whole(await conversation.send("hi", seed=1))
        async with conversation.stream("hi") as turn:
            assert_type(turn, AsyncStream)
        await client.chat("hi", temprature=0.5)  # type: ignore[call-arg]
        await client.chat("hi", temperature="hot")  # type: ignore[arg-type]


def whole(answer: Answer) -> None:
    assert_type(answer.text, str)
    assert_type(answer.message, pb.Message)
    assert_type(answer.finish_reason, FinishReason)
    assert_type(answer.stopped_by, str | int | None)
    assert_type(answer.usage, pb.Usage)
    assert_type(answer.usage.prompt_tokens, int)
    assert_type(answer.timing, Timing)
    assert_type(answer.timing.first_token, float)


def piece(chunk: Chunk) -> None:
    assert_type(chunk.text, str)
    assert_type(chunk.index, int)
    assert_type(chunk.finish_reason, FinishReason | None)


def failed(error: Error) -> None:
    assert_type(error.reason, str)
    assert_type(error.retry_after, float | None)
    assert_type(error.violations, tuple[Violation, ...])
    assert_type(error.partial, Answer | None)
