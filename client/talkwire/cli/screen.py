"""The terminal: reads lines and shows texts. Knows no client and no commands."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.shortcuts import CompleteStyle
from rich.console import Console
from rich.text import Text

from talkwire.cli import state
from talkwire.cli.status import harmless

_QUOTES = '"""'


class Screen:
    """A terminal with a prompt. `words` are what Tab completes: first words, and what follows."""

    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        self._console = Console(highlight=False)
        self._thinks = False
        self._prompt: PromptSession[str] = PromptSession(
            multiline=True,  # so that pasted newlines stay; Enter is bound to end the input
            key_bindings=_keys(),
            completer=_Completer(words),
            complete_while_typing=False,
            complete_style=CompleteStyle.READLINE_LIKE,
            history=_history(),
            enable_open_in_editor=True,
            prompt_continuation="  ",
        )

    def read(self) -> str | None:
        """Return what was typed, without the quotes of a multi-line text; None at Ctrl-D."""
        try:
            # Without a handler of its own, which would swallow a Ctrl-C just after Enter.
            typed = self._prompt.prompt("> ", handle_sigint=False)
        except EOFError:
            return None
        # What the terminal sent and is no text arrives as lone surrogates.
        text = typed.encode(errors="replace").decode().strip()
        if text.startswith(_QUOTES):
            return text.removeprefix(_QUOTES).removesuffix(_QUOTES).strip("\n")
        return text

    def write(self, piece: str) -> None:
        """Write a piece of an answer, at once; below the thoughts, if there were any."""
        if piece and self._thinks:
            self._thinks = False
            piece = "\n\n" + piece
        self._console.out(harmless(piece), end="", highlight=False)

    def think(self, piece: str) -> None:
        """Write a piece of thought, dimly."""
        self._thinks = self._thinks or bool(piece)
        self._console.out(harmless(piece), style="dim", end="", highlight=False)

    def show(self, text: str, style: str = "") -> None:
        """Show a text on lines of its own, unwrapped, so that it can be copied."""
        self._thinks = False
        shown = Text(harmless(text), style)
        self._console.print(shown, soft_wrap=True)

    def note(self, text: str) -> None:
        """Show a text dimly."""
        self.show(text, "dim")

    def error(self, text: str) -> None:
        """Show what went wrong, in red, on one line."""
        self.show(" ".join(text.split()), "red")

    @contextmanager
    def waiting(self, text: str) -> Iterator[Callable[[str], None]]:
        """Turn a spinner beside a text; yield the function that changes the text."""
        with self._console.status(Text(text, "dim")) as status:
            yield lambda text: status.update(Text(text, "dim"))


class _Completer(Completer):
    def __init__(self, words: Mapping[str, Sequence[str]]) -> None:
        self._words = words

    def get_completions(self, document: Document, _: CompleteEvent) -> Iterable[Completion]:
        first, space, rest = document.text_before_cursor.partition(" ")
        words, begun = (self._words.get(first, ()), rest) if space else (self._words, first)
        if document.text_before_cursor.startswith("/"):
            for word in words:
                if word.startswith(begun):
                    yield Completion(word, -len(begun))


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        if text.startswith(_QUOTES) and not text[len(_QUOTES) :].endswith(_QUOTES):
            event.current_buffer.newline(copy_margin=False)
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    @keys.add("c-c")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys


def _history() -> History:
    try:
        path = state.folder() / "history"
        path.touch(mode=0o600)
    except OSError:
        return InMemoryHistory()  # a home that cannot be written is no reason not to chat
    return FileHistory(str(path))
