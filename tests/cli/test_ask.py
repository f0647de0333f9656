"""`talkwire ask`, and `talkwire chat` with a pipe, against an echo server."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from processes import ServerProcess, launched
from terminal import TALKWIRE, free_target, talkwire

LONG = "word " * 1000


@pytest.fixture
def slow() -> Iterator[ServerProcess]:
    """An echo server for which `LONG` takes minutes, and which waits a minute for its calls."""
    with launched("--echo-delay=0.2", "--grace=60") as server:
        yield server


def ends_idle(server: ServerProcess) -> bool:
    """Stop a server; tell whether no call was left, which it would have waited for and cut."""
    server.signal(signal.SIGTERM)
    status, log = server.ends()
    return status == 0 and "did not finish" not in log


# What comes out


def test_the_answer_is_all_of_stdout(target: str) -> None:
    """An answer is plain text with a final newline; stderr is empty."""
    ended = talkwire("ask", "--target", target, "one two  three")

    assert (ended.status, ended.out, ended.err) == (0, "one two  three\n", "")


def test_several_servers_can_be_asked(target: str) -> None:
    """With commas between them; one that is not there does not matter."""
    assert talkwire("ask", "--target", f"127.0.0.1:1,{target}", "one").out == "one\n"


def test_a_final_newline_is_not_doubled(target: str) -> None:
    """An answer that ends with a newline gets no second one."""
    ended = talkwire("ask", "--target", target, "a\n")

    assert ended.out == "a\n"


def test_words_need_no_quotes(target: str) -> None:
    """Several words are one question."""
    assert talkwire("ask", "--target", target, "one", "two").out == "one two\n"


def test_standard_input_is_the_question(target: str) -> None:
    """Without a question on the command line, all of stdin is it."""
    assert talkwire("ask", "--target", target, stdin="one\ntwo é\n").out == "one\ntwo é\n"


def test_standard_input_is_added_to_the_question(target: str) -> None:
    """With both, stdin follows the question after an empty line."""
    ended = talkwire("ask", "--target", target, "Sum up:", stdin="one\ntwo\n")

    assert ended.out == "Sum up:\n\none\ntwo\n"


def test_closed_standard_input_is_no_question(target: str) -> None:
    """A closed stdin is nothing that could be read, and nothing that fails."""
    command = f'"$0" -m talkwire ask --target {target} hi <&-'
    ended = subprocess.run(
        ["sh", "-c", command, TALKWIRE[0]], capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "hi\n", "")


def test_no_stream_gives_the_same_answer(target: str) -> None:
    """`--no-stream` waits for the whole answer."""
    assert talkwire("ask", "--target", target, "--no-stream", "one two").out == "one two\n"


def test_json_is_a_message_a_line(target: str) -> None:
    """`--json` writes each message of the stream as the JSON that grpcurl writes."""
    lines = talkwire("ask", "--target", target, "--json", "one two é").out.splitlines()
    messages = [json.loads(line) for line in lines]

    assert [message.get("text") for message in messages] == ["one", " two", " é", None]
    assert messages[0]["model"] == "echo"
    assert messages[-1]["finishReason"] == "FINISH_REASON_STOP"
    assert messages[-1]["usage"]["completionTokens"] == 3


def test_json_without_stream_is_one_line(target: str) -> None:
    """`--json --no-stream` writes the one ChatResponse."""
    (line,) = talkwire("ask", "--target", target, "--json", "--no-stream", "hi").out.splitlines()

    assert json.loads(line)["message"] == {"role": "ROLE_ASSISTANT", "text": "hi"}


def test_flags_become_the_request(target: str) -> None:
    """Options of the request reach the server: here those that change what echo says."""
    question = "one two three four"

    assert talkwire("ask", "--target", target, "--max-tokens=2", question).out == "one two\n"
    flags = ("--stop", "four", "--stop", " three", "--temperature=0", "--seed=1")
    assert talkwire("ask", "--target", target, *flags, question).out == "one two\n"


def test_text_appears_while_it_is_generated(slow: ServerProcess) -> None:
    """The first word can be read long before the last; Ctrl-C stops the server's work, too."""
    command = [*TALKWIRE, "ask", "--target", slow.target, LONG]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as asking:
        assert asking.stdout
        assert os.read(asking.stdout.fileno(), 100) == b"word"
        asking.send_signal(signal.SIGINT)
        assert asking.stdout.read().endswith(b"\n")
        assert asking.wait() == 130
    assert ends_idle(slow)


def test_a_reader_that_leaves_ends_it_quietly(slow: ServerProcess) -> None:
    """When the pipe is closed (`| head -1`), nothing is said and the server's work is stopped."""
    command = [*TALKWIRE, "ask", "--target", slow.target, LONG]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, **streams) as asking:  # type: ignore[call-overload]
        assert os.read(asking.stdout.fileno(), 100) == b"word"
        asking.stdout.close()
        assert asking.stderr.read() == b""
        assert asking.wait() == 141
    assert ends_idle(slow)


# How it fails


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (["--temperature=-1", "hi"], 2, "sampling.temperature: must be in [0, 2], got -1"),
        (["--model=nope", "hi"], 5, "no model 'nope' here; there is: echo"),
        (["--max-tokens=99999999999", "hi"], 2, "max_tokens: Value out of range: 99999999999"),
        ([], 2, "nothing was asked; see talkwire ask --help"),
    ],
)
def test_failures_have_a_status_and_one_line(
    arguments: list[str], status: int, text: str, target: str
) -> None:
    """Stdout stays empty, stderr says what is wrong, the status tells kinds of failure apart."""
    ended = talkwire("ask", "--target", target, *arguments)

    assert (ended.status, ended.out, ended.err) == (status, "", f"talkwire: {text}\n")


def test_standard_input_must_be_text(target: str) -> None:
    """Bytes that are not UTF-8 are refused, not guessed at."""
    ended = talkwire("ask", "--target", target, stdin=b"\xff\xfe")

    assert (ended.status, ended.err) == (2, "talkwire: standard input is not UTF-8 text\n")


def test_the_time_limit_has_a_status(slow: ServerProcess) -> None:
    """`--timeout` ends the call; what came until then was written."""
    ended = talkwire("ask", "--target", slow.target, "--timeout=1", LONG)

    assert ended.status == 4
    assert ended.out.startswith("word word")
    assert len(ended.err.splitlines()) == 1


def test_no_connection_has_a_status() -> None:
    """Where nobody listens, the line names the target and the cause."""
    target = free_target()
    ended = talkwire("ask", "--target", target, "hi")

    assert ended.status == 3
    assert ended.err.startswith(f"talkwire: no connection to {target} within 10 s: ")
    assert ended.err.endswith("Connection refused\n")


# talkwire ready, talkwire chat with a pipe


def test_ready_says_yes_to_a_server(target: str) -> None:
    """`talkwire ready` ends with 0 and says nothing."""
    ended = talkwire("ready", target, "--timeout=10")

    assert (ended.status, ended.out, ended.err) == (0, "", "")


def test_chat_answers_a_pipe(target: str) -> None:
    """With a pipe for stdin, chat answers it like ask; TALKWIRE_TARGET is the default target."""
    ended = talkwire(
        "chat", "--max-tokens=3", stdin="one two\nthree four\n", TALKWIRE_TARGET=target
    )

    assert (ended.status, ended.out, ended.err) == (0, "one two\nthree\n", "")


def test_arguments_for_a_server_need_local() -> None:
    """What follows `--` is for the server that `--local` starts; without it, it is an error."""
    ended = talkwire("chat", "--", "--engine=echo")

    assert ended.status == 2
    assert "what follows -- is for the server of --local" in ended.err
