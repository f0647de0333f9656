"""What a type checker knows of the public API. A test has it checked; it is never run."""

from typing import TypedDict, assert_type

from talkwire import (
    Answer,
    AsyncClient,
    AsyncConversation,
    AsyncStream,
    Audio,
    ChatOptions,
    Choice,
    Chunk,
    Client,
    Conversation,
    Error,
    FinishReason,
    Grammar,
    Image,
    Query,
    Regex,
    Retry,
    Stream,
    StructuralTag,
    Timing,
    Video,
    Violation,
)
from talkwire_proto.v1 import chat_pb2 as pb


class Row(TypedDict):
    a: int


def add(a: int, b: int = 1) -> int:
    """Add."""
    return a + b


async def look_up(word: str) -> Row:
    """Look a word up."""
    return {"a": len(word)}


def blocking() -> None:
    with Client("localhost:50051", retry=Retry(attempts=2), temperature=0.5) as client:
        assert_type(client, Client)
        whole(client.chat("hi", system="", stop="x", timeout=1.0, resume=True))
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
        assert_type(conversation.undo(), Query | None)
        whole(conversation.send("hi", seed=1))
        with conversation.stream("hi", keep_partial=True) as turn:
            assert_type(turn, Stream)
        assert_type(client.options, ChatOptions)
        whole(client.run_tools("hi", tools=[add], limit=3, timeout=5))
        whole(conversation.run_tools("hi", tools=[add], tool_choice="required"))
        counted = client.count_tokens("hi", include_prompt=True, system="")
        assert_type(counted, pb.CountTokensResponse)
        assert_type(client.abort(stream.id), bool)
        whole(stream.stop())
        client.chat("hi", reasoning="a lot")  # type: ignore[arg-type]
        client.chat("hi", include={"tokens": True})  # type: ignore[typeddict-unknown-key]
        client.chat([5])  # type: ignore[list-item]
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
        async with conversation.stream("hi", keep_partial=True) as turn:
            assert_type(turn, AsyncStream)
        assert_type(client.options, ChatOptions)
        whole(await client.run_tools("hi", tools=[add, look_up], limit=3, timeout=5))
        whole(await conversation.run_tools("hi", tools=[add], tool_choice="required"))
        counted = await client.count_tokens("hi", include_prompt=True, system="")
        assert_type(counted, pb.CountTokensResponse)
        assert_type(await client.abort(stream.id), bool)
        whole(await stream.stop())
        await client.chat("hi", reasoning="a lot")  # type: ignore[arg-type]
        await client.chat("hi", temprature=0.5)  # type: ignore[call-arg]
        await client.chat("hi", temperature="hot")  # type: ignore[arg-type]


def options(client: Client, answer: Answer) -> None:
    """Everything that a request may say, in all its forms."""
    for output in (
        Row,
        dict[str, int],
        list[int],
        int | None,
        {"type": "object"},
        "{}",
        Regex("a"),
    ):
        client.request(output=output)
    for form in (Choice("a", "b"), Grammar("g"), StructuralTag({"format": {}})):
        client.request(output=form)
    client.request(tools=[add, look_up, pb.Function(), pb.Tool(), {"name": "f"}], tool_choice="f")
    client.request(reasoning="low", include={"logprobs": 2, "token_ids": True})
    client.request(reasoning={"effort": "high", "max_tokens": 5, "exclude": True})
    client.request(n=2, priority=-1, time_limit=2.5, parallel_tool_calls=False)
    client.request(documents=[{"title": "t"}], truncate_prompt_tokens=-1)
    client.request(engine_options={"a": [1]}, template={"enable_thinking": False})
    for beginning in (answer, pb.Continuation(text="a"), [1, 2], None):
        client.request(continuation=beginning)
    client.request(["What is this?", Image(b""), Audio.from_file("a.mp3"), pb.Part(text="b")])
    client.request([Image.from_uri("https://a/b.png", cache_key="k"), Video.cached("k")])
    client.request(messages=[{"role": "user", "parts": ["a", Image(b"")]}])


def whole(answer: Answer) -> None:
    assert_type(answer.text, str)
    assert_type(answer.message, pb.Message)
    assert_type(answer.finish_reason, FinishReason)
    assert_type(answer.stopped_by, str | int | None)
    assert_type(answer.usage, pb.Usage)
    assert_type(answer.usage.prompt_tokens, int)
    assert_type(answer.timing, Timing)
    assert_type(answer.timing.first_token, float)
    assert_type(answer.tool_calls, list[pb.ToolCall])
    assert_type(answer.alternatives, list[Answer])
    assert_type(answer.logprobs, list[pb.TokenLogprob])
    assert_type(answer.prompt_logprobs, list[pb.TokenLogprob])
    assert_type(answer.token_ids, list[int])
    assert_type(answer.prompt_token_ids, list[int])


def piece(chunk: Chunk) -> None:
    assert_type(chunk.text, str)
    assert_type(chunk.index, int)
    assert_type(chunk.finish_reason, FinishReason | None)
    assert_type(chunk.tool_calls, list[pb.ToolCallDelta])
    assert_type(chunk.logprobs, list[pb.TokenLogprob])
    assert_type(chunk.token_ids, list[int])


def failed(error: Error) -> None:
    assert_type(error.reason, str)
    assert_type(error.retry_after, float | None)
    assert_type(error.violations, tuple[Violation, ...])
    assert_type(error.partial, Answer | None)
    Client().stream("hi", continuation=error.partial)
