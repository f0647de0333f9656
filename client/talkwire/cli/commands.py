"""The commands of the terminal chat, as one table. They return what to show and show nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from talkwire._messages import Query
from talkwire.cli import sampling, snippet
from talkwire.cli.nearest import nearest
from talkwire.cli.talk import Talk


@dataclass(frozen=True, slots=True)
class Ask:
    """A command's wish: ask this."""

    query: Query


Outcome: TypeAlias = str | Ask


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it takes ("", "FILE", "[TEXT]"), what it does, and words Tab completes."""

    takes: str
    help: str
    run: Callable[[Talk, str], Outcome]
    words: Sequence[str] = ()


def run(line: str, talk: Talk) -> Outcome:
    """Carry out a line that begins with a slash.

    Raises:
        ValueError: It is no command, or not used as one; says what is allowed.
        OSError: A file cannot be read or written.
        talkwire.Error: The server refuses.

    """
    name, _, argument = line.partition(" ")
    argument = argument.strip()
    if not (command := COMMANDS.get(name)):
        msg = f"no command {name}{nearest(name, COMMANDS)}; /help lists them"
        raise ValueError(msg)
    if argument and not command.takes:
        msg = f"{name} takes nothing after it"
        raise ValueError(msg)
    if not argument and command.takes and not command.takes.startswith("["):
        msg = f"{name} takes {command.takes}"
        raise ValueError(msg)
    return command.run(talk, argument)


def _system(talk: Talk, argument: str) -> str:
    if argument:
        talk.options["system"] = "" if argument == '""' else argument
    if "system" in talk.options:
        return f"system prompt: {talk.options['system'] or 'none'}"
    default = talk.client.model(talk.options.get("model", "")).default_system
    return f"system prompt: {default or 'none'} (the server's default)"


def _set(talk: Talk, argument: str) -> str:
    options = cast(dict[str, Any], talk.options)
    if not argument:
        lines = [f"{n} {sampling.show(options[n])}" for n in sampling.KINDS if n in options]
        return "\n".join(lines) or "nothing is set: all is the model's to decide"
    name, _, text = argument.partition(" ")
    if text := text.strip():
        options[name] = sampling.parse(name, text)
        return f"{name} {sampling.show(options[name])}"
    sampling.check(name)
    options.pop(name, None)
    return f"{name} is the model's to decide"


def _model(talk: Talk, argument: str) -> str:
    if argument:
        talk.options["model"] = talk.client.model(argument).id
    models = [model.id for model in talk.client.models()]
    chosen = talk.options.get("model", models[0])
    return "\n".join(f"{'*' if name == chosen else ' '} {name}" for name in models)


def _clear(talk: Talk, _: str) -> str:
    talk.clear()
    return "forgotten; the settings stay"


def _undo(talk: Talk, _: str) -> str:
    query = _last(talk)
    return f"took back: {query if isinstance(query, str) else f'a message of {len(query)} parts'}"


def _retry(talk: Talk, _: str) -> Ask:
    return Ask(_last(talk))


def _last(talk: Talk) -> Query:
    if (query := talk.take_back()) is None:
        msg = "nothing was asked yet"
        raise ValueError(msg)
    return query


def _save(talk: Talk, argument: str) -> str:
    talk.conversation.save(Path(argument).expanduser())
    return f"{len(talk.conversation.messages)} messages saved in {argument}"


def _load(talk: Talk, argument: str) -> str:
    talk.load(Path(argument).expanduser())
    return f"{len(talk.conversation.messages)} messages loaded from {argument}"


def _request(talk: Talk, _: str) -> str:
    if talk.request is None:
        msg = "nothing was asked yet"
        raise ValueError(msg)
    shell = snippet.grpcurl(talk.request, talk.server)
    return f"{shell}\n\n{snippet.python(talk.request, talk.server)}"


def _help(_: Talk, __: str) -> str:
    rows = [(f"{name} {c.takes}", c.help) for name, c in COMMANDS.items()]
    return "\n".join(f"{left:<20} {right}" for left, right in (*rows, *_KEYS))


COMMANDS: Mapping[str, Command] = {
    "/system": Command("[TEXT]", 'show or change the system prompt; "" for none', _system),
    "/set": Command("[NAME [VALUE]]", "show, reset or change sampling", _set, list(sampling.KINDS)),
    "/model": Command("[NAME]", "list the models, or change to another", _model),
    "/clear": Command("", "forget what was said", _clear),
    "/undo": Command("", "take back the last question and its answer", _undo),
    "/retry": Command("", "ask the last question again", _retry),
    "/save": Command("FILE", "write the conversation, a JSON message a line", _save),
    "/load": Command("FILE", "go on with a saved conversation", _load),
    "/request": Command("", "show the last request as a grpcurl command and in Python", _request),
    "/help": Command("", "show this", _help),
}

_KEYS = (
    ('"""', "begins and ends a text of several lines; so does Alt-Enter for a new line"),
    ("Ctrl-C", "stops the answer; at the prompt, clears the line"),
    ("Ctrl-D", "leaves"),
    ("Ctrl-X Ctrl-E", "opens $EDITOR"),
)
