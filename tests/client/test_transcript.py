"""Conversations and answers as data: no server."""

from pathlib import Path

import pytest

from support import make
from talkwire import Accumulator, Answer, Client
from talkwire._answer import finish_reason
from talkwire_proto.v1 import chat_pb2 as pb

CLIENT = Client("localhost:1")


def answer(text: str) -> Answer:
    usage = pb.Usage(prompt_tokens=3, completion_tokens=1)
    return Answer(
        make(pb.ChatResponse, message={"role": pb.ROLE_ASSISTANT, "text": text}, usage=usage)
    )


def test_undo_takes_back_the_last_turn() -> None:
    """From the last user message on; None where there is none."""
    conversation = CLIENT.conversation([{"role": "system", "text": "s"}])
    conversation.add("a", answer("b"))
    conversation.add("c", answer("d"))

    assert conversation.undo() == "c"
    assert [m.text for m in conversation.messages] == ["s", "a", "b"]
    assert conversation.undo() == "a"
    assert conversation.undo() is None
    assert conversation.usage == pb.Usage(prompt_tokens=6, completion_tokens=2)


def test_a_fork_goes_its_own_way() -> None:
    """What is said in a copy is not said in the original; a channel is not copied."""
    assert CLIENT.channel
    conversation = CLIENT.conversation(system="s")
    fork = conversation.fork()
    fork.add("a", answer("b"))
    fork.options["system"] = "t"

    assert (conversation.messages, conversation.options) == ([], {"system": "s"})
    fork.clear()
    assert fork.messages == []


def test_save_and_load_keep_everything(tmp_path: Path) -> None:
    """Messages and system come back as they were, the empty system too."""
    for system in ("be brief", "", None):
        conversation = CLIENT.conversation()
        if system is not None:
            conversation.options["system"] = system
        conversation.add("naïve ☕\nline", answer("b"))
        conversation.save(tmp_path / "chat.jsonl")
        other = CLIENT.conversation(system="other")
        other.load(tmp_path / "chat.jsonl")

        assert other.messages == conversation.messages
        assert other.options == conversation.options
        assert len((tmp_path / "chat.jsonl").read_text(encoding="utf-8").splitlines()) >= 2


def test_a_bad_file_changes_nothing(tmp_path: Path) -> None:
    """The line that is no message is named; the conversation stays."""
    path = tmp_path / "chat.jsonl"
    path.write_text('{"text": "a"}\n{"txt": 1}\n')
    conversation = CLIENT.conversation([{"text": "kept"}])
    with pytest.raises(ValueError, match="line 2"):
        conversation.load(path)
    with pytest.raises(FileNotFoundError):
        conversation.load(tmp_path / "missing")

    assert [m.text for m in conversation.messages] == ["kept"]


def test_the_accumulator_folds_everything_a_stream_may_carry() -> None:
    """Several answers mixed, tool calls in pieces, ids, log-probabilities, the ends."""
    accumulator = Accumulator()
    for delta in (
        make(
            pb.ChatStreamResponse, id="i", model="m", text="a", prompt_token_ids=[1], token_ids=[2]
        ),
        make(pb.ChatStreamResponse, index=1, text="x", logprobs=[{"token_id": 9}]),
        make(pb.ChatStreamResponse, reasoning="th", tool_calls=[{"id": "c", "name": "f"}]),
        make(pb.ChatStreamResponse, reasoning="ink", tool_calls=[{"arguments": '{"a"'}]),
        make(pb.ChatStreamResponse, tool_calls=[{"arguments": ":1}"}, {"index": 1, "name": "g"}]),
        make(pb.ChatStreamResponse, text="b", finish_reason=pb.FINISH_REASON_TOOL_CALLS),
        make(
            pb.ChatStreamResponse,
            index=1,
            finish_reason=pb.FINISH_REASON_STOP,
            stop_match={"text": "y"},
            usage={"prompt_tokens": 1},
        ),
    ):
        before = accumulator.response
        accumulator.add(delta)

    assert not before.HasField("usage")
    assert accumulator.response == accumulator.response
    assert accumulator.response == make(
        pb.ChatResponse,
        id="i",
        model="m",
        message={
            "role": pb.ROLE_ASSISTANT,
            "text": "ab",
            "reasoning": "think",
            "tool_calls": [{"id": "c", "name": "f", "arguments": '{"a":1}'}, {"name": "g"}],
        },
        finish_reason=pb.FINISH_REASON_TOOL_CALLS,
        token_ids=[2],
        prompt_token_ids=[1],
        usage={"prompt_tokens": 1},
        timing={},
        alternatives=[
            {
                "message": {"role": pb.ROLE_ASSISTANT, "text": "x"},
                "finish_reason": pb.FINISH_REASON_STOP,
                "stop_match": {"text": "y"},
                "logprobs": [{"token_id": 9}],
            }
        ],
    )


def test_what_an_answer_says_of_its_end() -> None:
    """Stop words, stop tokens, thoughts, and reasons that this client does not know."""
    proto = make(pb.ChatResponse, stop_match={"token_id": 7}, message={"reasoning": "hm"})

    assert (Answer(proto).stopped_by, Answer(proto).reasoning) == (7, "hm")
    assert finish_reason(99) == finish_reason(0) == "unknown"
    assert [finish_reason(value) for value in pb.FinishReason.values()] == [
        *("unknown", "stop", "length", "tool_calls", "time_limit", "aborted", "repetition")
    ]
