"""The commands of the terminal chat, without a terminal, against an echo server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from processes import serving
from talkwire import Client, ModelNotFound
from talkwire.cli.commands import COMMANDS, Ask, run
from talkwire.cli.talk import Talk


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """A client of a fast echo server."""
    flags = ("--served-model-name=parrot", "--default-system=Be brief.")
    with serving(*flags) as target, Client(target) as client:
        yield client


@pytest.fixture
def talk(client: Client) -> Talk:
    """A new conversation."""
    return Talk(client)


def said(talk: Talk) -> list[str]:
    """Return the texts of the history."""
    return [message.text for message in talk.conversation.messages]


def ask(talk: Talk, query: str) -> str:
    """Ask; return what was shown."""
    shown: list[str] = []
    talk.ask(query, shown.append)
    return "".join(shown)


def refusal(line: str, talk: Talk) -> str:
    """Return why a line is refused."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the caller compares it
        run(line, talk)
    return str(raised.value)


def test_an_unknown_command_names_the_nearest(talk: Talk) -> None:
    """A typing error is answered with what was meant."""
    assert refusal("/udno", talk) == "no command /udno (did you mean /undo?); /help lists them"


def test_help_names_every_command(talk: Talk) -> None:
    """`/help` has a line for each command, and for the keys."""
    shown = run("/help", talk)

    assert isinstance(shown, str)
    assert [line.split()[0] for line in shown.splitlines()][: len(COMMANDS)] == list(COMMANDS)
    assert "\nCtrl-C " in shown


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/clear all", "/clear takes nothing after it"),
        ("/save", "/save takes FILE"),
        ("/set warmth 1", "no option warmth"),
        ("/set warmth", "no option warmth"),
        ("/set top_k many", "top_k takes a whole number, not many"),
        ("/undo", "nothing was asked yet"),
        ("/retry", "nothing was asked yet"),
        ("/request", "nothing was asked yet"),
    ],
)
def test_a_command_used_wrongly_says_how(line: str, message: str, talk: Talk) -> None:
    """Nothing that was typed is ignored in silence."""
    assert refusal(line, talk).startswith(message)


def test_set_shows_sets_and_resets(talk: Talk) -> None:
    """`/set` alone shows, with a value sets, with a name alone gives the choice back."""
    assert run("/set", talk) == "nothing is set: all is the model's to decide"
    assert run("/set max_tokens 2", talk) == "max_tokens 2"
    assert run("/set stop ' three'", talk) == "stop ' three'"
    assert run("/set", talk) == "max_tokens 2\nstop ' three'"
    assert ask(talk, "one two three") == "one two"
    assert run("/set max_tokens", talk) == "max_tokens is the model's to decide"
    assert ask(talk, "one two two three") == "one two two"


def test_system_shows_and_changes(talk: Talk) -> None:
    """Without a text the system prompt is the server's, with one this, with "" none."""
    assert run("/system", talk) == "system prompt: Be brief. (the server's default)"
    assert run("/system Be kind.", talk) == "system prompt: Be kind."
    assert run("/system", talk) == "system prompt: Be kind."
    assert run('/system ""', talk) == "system prompt: none"
    ask(talk, "hi")
    assert talk.request
    assert (talk.request.HasField("system"), talk.request.system) == (True, "")


def test_model_lists_and_changes(talk: Talk) -> None:
    """`/model` marks the model that answers; one that the server lacks is refused."""
    assert run("/model", talk) == "* parrot"
    assert run("/model parrot", talk) == "* parrot"
    assert talk.options["model"] == "parrot"
    with pytest.raises(ModelNotFound):
        run("/model owl", talk)
    assert talk.options["model"] == "parrot"


def test_undo_takes_back_question_and_answer(talk: Talk) -> None:
    """`/undo` leaves the history as it was before the last question."""
    ask(talk, "one")
    ask(talk, "two")

    assert run("/undo", talk) == "took back: two"
    assert said(talk) == ["one", "one"]


def test_retry_asks_the_last_question_again(talk: Talk) -> None:
    """`/retry` replaces the last answer."""
    ask(talk, "one")

    assert run("/retry", talk) == Ask("one")
    assert said(talk) == []


def test_a_question_that_failed_can_be_asked_again(talk: Talk) -> None:
    """A question without an answer is not in the history, and `/retry` still knows it."""
    ask(talk, "one")
    run("/set temperature -1", talk)
    with pytest.raises(Exception, match="temperature"):
        ask(talk, "two")

    assert said(talk) == ["one", "one"]
    assert run("/retry", talk) == Ask("two")
    assert run("/undo", talk) == "took back: one"


def test_clear_forgets_but_keeps_the_settings(talk: Talk) -> None:
    """After `/clear` nothing was said; what was set stays."""
    run("/set seed 1", talk)
    ask(talk, "one")

    assert run("/clear", talk) == "forgotten; the settings stay"
    assert said(talk) == []
    assert run("/set", talk) == "seed 1"


def test_a_saved_conversation_can_be_loaded(talk: Talk, client: Client, tmp_path: Path) -> None:
    """`/save` writes, `/load` goes on where it was: the system prompt and all messages."""
    file = tmp_path / "a file.jsonl"
    run("/system Be kind.", talk)
    ask(talk, "one\ntwo é")
    other = Talk(client)

    assert run(f"/save {file}", talk) == f"2 messages saved in {file}"
    assert run(f"/load {file}", other) == f"2 messages loaded from {file}"
    assert said(other) == ["one\ntwo é"] * 2
    assert run("/system", other) == "system prompt: Be kind."


def test_a_file_in_the_home_folder(
    talk: Talk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leading ~ is the home folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    run("/save ~/chat", talk)

    assert (tmp_path / "chat").read_text() == ""


def test_a_file_that_is_no_conversation_changes_nothing(talk: Talk, tmp_path: Path) -> None:
    """`/load` of something else names the line and leaves the history alone."""
    file = tmp_path / "notes.txt"
    file.write_text("buy milk\n")
    ask(talk, "one")

    assert refusal(f"/load {file}", talk).startswith(f"{file}, line 1: ")
    assert said(talk) == ["one", "one"]


def test_request_shows_both_texts(talk: Talk) -> None:
    """`/request` gives the shell command, an empty line, the program."""
    ask(talk, "one")
    shown = run("/request", talk)

    assert isinstance(shown, str)
    shell, program = shown.split("\n\n", 1)
    assert shell.startswith("grpcurl -plaintext -d ")
    assert program.startswith("from talkwire import Client\n")
