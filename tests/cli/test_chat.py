"""The terminal chat in a pseudo-terminal, against echo servers and servers that load."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from processes import ServerProcess, launched
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from terminal import Terminal, chatting, free_target

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")

COUNT = " ".join(map(str, range(1, 1001)))
SUMMARY = r"\d+ in · {} out · first token \d+ ms · \d+ tok/s · stop"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "talkwire"


@pytest.fixture
def slow() -> Iterator[ServerProcess]:
    """An echo server that says ten words a second and waits a minute for its calls."""
    with launched("--echo-delay=0.1", "--grace=60") as server:
        yield server


@pytest.fixture
def terminal(target: str) -> Iterator[Terminal]:
    """A chat with the fast server, at its first prompt."""
    with chatting(target) as terminal:
        terminal.prompt()
        yield terminal


def answered(shown: str) -> tuple[str, str]:
    """Split what a question gets into the answer and the line below it."""
    answer, _, summary = shown.rpartition("\n")
    return answer.strip(), summary


# Beginning and end


def test_it_begins_with_the_model_and_ends_with_ctrl_d(target: str) -> None:
    """Model, size of its context and server are shown before the first prompt."""
    with chatting(target) as terminal:
        shown = terminal.prompt()

        assert "echo, context of 8192 tokens\n" in shown
        assert f"on {target}; " in shown
        assert terminal.leaves() == 0


def test_it_waits_for_a_server(target: str) -> None:
    """Where nobody listens yet, it says so, and goes on once somebody does."""
    target = free_target()
    with chatting(target) as terminal:
        terminal.sees(f"nothing answers at {target} yet; Ctrl-C leaves")
        with launched(f"--port={target.rpartition(':')[2]}"):
            assert "echo, context of" in terminal.prompt()


class Loading(chat_pb2_grpc.ModelServiceServicer):
    """A server whose model is known, but loads until it is told to serve."""

    def __init__(self) -> None:
        self.health = health.HealthServicer()
        self.model = pb.Model(id="bert")

    def GetModel(self, *_: object) -> pb.GetModelResponse:
        return pb.GetModelResponse(model=self.model)

    def ListModels(self, *_: object) -> pb.ListModelsResponse:
        return pb.ListModelsResponse(models=[self.model])

    def is_loaded(self, *, loaded: bool) -> None:
        """Change the server's health; only a loaded model knows its length."""
        self.model.max_context_tokens = 512 if loaded else 0
        status = health_pb2.HealthCheckResponse
        self.health.set("", status.SERVING if loaded else status.NOT_SERVING)


class Thinking(chat_pb2_grpc.ChatServiceServicer):
    """Thinks, then speaks."""

    def ChatStream(self, *_: object) -> Iterator[pb.ChatStreamResponse]:
        yield pb.ChatStreamResponse(id="1", model="bert", reasoning="Is it")
        yield pb.ChatStreamResponse(reasoning=" so?")
        yield pb.ChatStreamResponse(text="It")
        yield pb.ChatStreamResponse(text=" is.", usage=pb.Usage(reasoning_tokens=2))


@contextmanager
def loading(chat: Thinking | None = None) -> Iterator[tuple[str, Loading]]:
    """Run a server that loads; yield its address and itself."""
    service = Loading()
    service.is_loaded(loaded=False)
    server = grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(service.health, server)
    chat_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    if chat:
        chat_pb2_grpc.add_ChatServiceServicer_to_server(chat, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", service
    finally:
        server.stop(None).wait()


def test_thoughts_are_above_the_answer() -> None:
    """What a model thinks is shown, apart from what it says, and is not said again."""
    with loading(Thinking()) as (target, server), chatting(target) as terminal:  # type: ignore[abstract]
        server.is_loaded(loaded=True)
        terminal.prompt()
        for _ in range(2):
            assert terminal.says("Is it?").startswith("Is it so?\n\nIt is.\n0 in")


def test_it_waits_while_the_model_loads() -> None:
    """While the server loads, the screen says what; the prompt comes when it serves."""
    with loading() as (target, server), chatting(target) as terminal:
        terminal.sees("bert is loading; Ctrl-C leaves")
        server.is_loaded(loaded=True)

        assert "bert, context of 512 tokens" in terminal.prompt()


def test_ctrl_c_leaves_the_wait() -> None:
    """While it waits, Ctrl-C ends it at once, without a traceback."""
    with loading() as (target, _), chatting(target) as terminal:
        terminal.sees("bert is loading; Ctrl-C leaves")
        terminal.interrupts()

        assert terminal.ends() == 130
        assert "Traceback" not in terminal.child.before


def test_a_model_that_is_not_there_ends_it(target: str) -> None:
    """`--model` with an unknown name ends with the line and the status of that."""
    with chatting(target, "--model=nope") as terminal:
        terminal.sees("talkwire: no model 'nope' here; there is: echo")

        assert terminal.ends() == 5


# Answers


def test_an_answer_has_a_line_below_it(terminal: Terminal) -> None:
    """Tokens in and out, time to the first, tokens a second, and why it ended."""
    answer, summary = answered(terminal.says("one two three"))

    assert answer == "one two three"
    assert re.fullmatch(SUMMARY.format(3), summary)


def test_the_line_names_the_stop_word(terminal: Terminal) -> None:
    """When a stop word ended the answer, the line says which; one token has no speed."""
    terminal.says("/set stop ' two'")
    answer, summary = answered(terminal.says("one two three"))

    assert answer == "one"
    assert re.fullmatch(r"\d+ in · 1 out · first token \d+ ms · stop at ' two'", summary)


def test_the_history_is_sent(terminal: Terminal) -> None:
    """Each question brings what was said before: the prompt grows by question and answer."""
    first = int(answered(terminal.says("one two"))[1].split()[0])
    second = int(answered(terminal.says("three"))[1].split()[0])

    assert second - first == 3  # two words of the first answer, one more question, less its two


def test_an_answer_appears_while_it_is_generated(slow: ServerProcess) -> None:
    """The first words are on the screen before the last exist."""
    with chatting(slow.target) as terminal:
        terminal.prompt()
        terminal.types(" ".join(f"word{n}." for n in range(40)))
        terminal.sees("word1.")

        assert "word39." not in terminal.child.buffer
        terminal.sees("word39.")
        assert re.fullmatch(SUMMARY.format(40), terminal.prompt())


def test_ctrl_c_stops_the_answer_here_and_on_the_server(slow: ServerProcess) -> None:
    """It keeps what was said, comes back to the prompt, and leaves the server without a call."""
    with chatting(slow.target) as terminal:
        terminal.prompt()
        terminal.types(COUNT)
        terminal.sees(" 3")
        terminal.interrupts()
        assert terminal.prompt().endswith("\nstopped")
        request = terminal.says("/request")
        assert "nothing was asked yet" not in request
        assert terminal.says("/undo").endswith(f"took back: {COUNT}")
        # It would wait a minute for a call that runs, and end with 1.
        slow.signal(signal.SIGTERM)
        assert slow.ends()[0] == 0


def test_a_stopped_answer_stays_in_the_history(slow: ServerProcess, tmp_path: Path) -> None:
    """What was said before Ctrl-C is part of the conversation."""
    file = tmp_path / "chat"
    with chatting(slow.target) as terminal:
        terminal.prompt()
        terminal.types(COUNT)
        terminal.sees(" 3")
        terminal.interrupts()
        terminal.prompt()
        assert "2 messages saved" in terminal.says(f"/save {file}")

    assert '"ROLE_ASSISTANT", "text": "1 2 3' in file.read_text()


def test_ctrl_c_before_the_first_token() -> None:
    """Ctrl-C works while nothing has come yet; the question is not in the history."""
    with launched("--echo-delay=30", "--grace=60") as server, chatting(server.target) as terminal:
        terminal.prompt()
        terminal.types("one")
        time.sleep(0.5)  # nothing shows when the question has been sent
        terminal.interrupts()
        assert terminal.prompt().endswith("stopped")
        assert terminal.says("/undo").endswith("took back: one")
        assert terminal.says("/undo").endswith("nothing was asked yet")
        server.signal(signal.SIGTERM)
        assert server.ends()[0] == 0


def test_control_characters_do_not_reach_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    """A model cannot steer the terminal: escape sequences lose what makes them that."""
    file = tmp_path / "chat"
    file.write_text(json.dumps({"text": "\x1b[2J\a\x9bred"}))
    terminal.says(f"/load {file}")
    terminal.types("/retry")
    terminal.sees("[2Jred")

    assert terminal.prompt()


# What goes wrong


def test_an_error_is_one_line_and_the_chat_goes_on(terminal: Terminal) -> None:
    """What the server refuses is said in one line; the next question is answered."""
    terminal.says("/set temperature -1")
    shown = terminal.says("one")
    assert shown.endswith("sampling.temperature: must be in [0, 2], got -1")
    assert "Traceback" not in shown
    terminal.says("/set temperature 0")

    assert answered(terminal.says("/retry"))[0] == "one"


def test_a_number_too_large_is_one_line(target: str) -> None:
    """What cannot be put into a request is said, too."""
    with chatting(target, "--max-tokens=99999999999") as terminal:
        terminal.prompt()

        assert terminal.says("one").endswith("Value out of range: 99999999999")


def test_too_long_a_conversation_says_how_to_go_on(terminal: Terminal, tmp_path: Path) -> None:
    """When the context is full, the line says how to make room."""
    file = tmp_path / "long"
    file.write_text(json.dumps({"role": "ROLE_USER", "text": "word " * 9000}))
    terminal.says(f"/load {file}")
    shown = terminal.says("one")

    assert shown.endswith("leave no room in a context of 8192 - /clear or /undo makes room")


def test_a_server_that_is_gone_costs_a_line() -> None:
    """When the server has left, the line says how to go on, and the chat stays."""
    with launched() as server, chatting(server.target) as terminal:
        terminal.prompt()
        server.process.kill()
        server.ends()

        assert terminal.says("one").endswith(" - /retry asks again")
        assert terminal.leaves() == 0


def test_ctrl_c_stops_a_command_that_asks_the_server() -> None:
    """A command that waits for the server can be left, too."""
    with launched() as server, chatting(server.target) as terminal:
        terminal.prompt()
        server.signal(signal.SIGSTOP)
        terminal.types("/model")
        terminal.interrupts()
        shown = terminal.prompt()
        server.signal(signal.SIGCONT)

        assert shown.endswith("stopped")


# Input


def test_quotes_hold_several_lines(terminal: Terminal) -> None:
    """Between triple quotes, Enter begins a new line; the quotes are not sent."""
    terminal.child.send('"""one\rtwo\r')
    answer, _ = answered(terminal.says('three"""'))

    assert answer == "one\ntwo\nthree"


def test_alt_enter_begins_a_new_line(terminal: Terminal) -> None:
    """Alt-Enter, or Escape and Enter, does not end the input."""
    terminal.child.send("one\x1b\rtwo")

    assert answered(terminal.says(""))[0] == "one\ntwo"


def test_a_paste_keeps_its_lines(terminal: Terminal) -> None:
    """Newlines that are pasted do not end the input."""
    terminal.child.send("\x1b[200~one\ntwo\x1b[201~")

    assert answered(terminal.says(""))[0] == "one\ntwo"


def test_ctrl_c_at_the_prompt_clears_the_line(terminal: Terminal) -> None:
    """Ctrl-C forgets what was typed, and nothing else."""
    terminal.child.send("wrong\x03")

    assert answered(terminal.says("right"))[0] == "right"


def test_an_empty_line_asks_nothing(terminal: Terminal) -> None:
    """Enter alone shows the prompt again."""
    assert terminal.says("") == ""


def test_bytes_that_are_no_text_are_replaced(terminal: Terminal) -> None:
    """What is not UTF-8 becomes question marks instead of a failure."""
    os.write(terminal.child.fileno(), b"a\xff")

    assert answered(terminal.says("b"))[0] == "a?b"


def test_tab_completes_commands_and_names(terminal: Terminal) -> None:
    """Tab completes a command, and the name of an option after `/set`."""
    assert terminal.says("/se\t tempe\t 0.5") == "temperature 0.5"
    assert answered(terminal.says("se\t tempe\t"))[0] == "se tempe"


def test_the_input_history_persists(target: str, state: Path) -> None:
    """What was typed can be had again in the next chat, and is for its owner's eyes."""
    with chatting(target) as terminal:
        terminal.prompt()
        terminal.says("one two")
        terminal.leaves()
    with chatting(target) as terminal:
        terminal.prompt()
        terminal.child.send("\x1b[A")
        assert answered(terminal.says(" three"))[0] == "one two three"

    assert (state / "history").stat().st_mode & 0o777 == 0o600


def test_the_input_history_is_in_the_home_folder(target: str, tmp_path: Path) -> None:
    """Where XDG_STATE_HOME does not say another folder, files are kept in ~/.local/state."""
    with chatting(target, HOME=str(tmp_path), XDG_STATE_HOME="") as terminal:
        terminal.prompt()
        terminal.says("one two")

    assert "+one two\n" in (tmp_path / ".local/state/talkwire/history").read_text()


def test_a_home_that_cannot_be_written_is_no_obstacle(target: str, tmp_path: Path) -> None:
    """Without a place for its files the chat works all the same."""
    (tmp_path / "file").touch()
    with chatting(target, XDG_STATE_HOME=str(tmp_path / "file")) as terminal:
        terminal.prompt()

        assert answered(terminal.says("one"))[0] == "one"


# Commands, as they look


def test_commands_in_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    """Undo, save, clear, load and retry, as somebody would use them."""
    file = tmp_path / "chat"
    terminal.says("one")
    terminal.says("two")
    assert terminal.says("/undo").endswith("took back: two")
    assert terminal.says(f"/save {file}").endswith(f"2 messages saved in {file}")
    assert terminal.says("/clear").endswith("forgotten; the settings stay")
    assert terminal.says("/load nowhere").endswith("No such file or directory: 'nowhere'")
    assert terminal.says(f"/load {file}").endswith(f"2 messages loaded from {file}")
    assert answered(terminal.says("/retry"))[0] == "one"
    assert terminal.says("/xyz").endswith("no command /xyz; /help lists them")


def test_what_request_prints_can_be_pasted(terminal: Terminal) -> None:
    """The grpcurl command and the program, copied from the screen, get the answer."""
    question = """it's "so" $HOME `id` é"""
    terminal.says("one")
    terminal.says(question)
    shell, _, program = terminal.says("/request").rpartition("grpcurl ")[2].partition("\n\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    streams = subprocess.run(
        ["sh", "-c", f"grpcurl {shell}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PATH": path},
        check=True,
    ).stdout
    answer = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout

    assert answer == question + "\n"
    assert streams.count('"text": ') == len(question.split())
