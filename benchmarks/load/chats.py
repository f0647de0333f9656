"""What is asked of a server, who asks, and whether the answer is right. Knows no protocol."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle
from string import ascii_lowercase
from typing import Protocol, Self

DISTINCT = 2048  # prompts, in turn: one comes again only when all others were asked
QUESTIONS = ("Tell me about", "Write a story about", "What rhymes with", "Explain")
WORDS = ("the", "sea", "is", "a", "wondrous", "place", "where", "land", "and", "water", "meet")


def questions() -> list[str]:
    """Make prompts for a model. Their last tokens differ: see `load.models`."""
    letters = cycle(a + b for a in ascii_lowercase for b in ascii_lowercase)
    begins = cycle(QUESTIONS)
    return [f"{next(begins)} {i}{next(letters)}" for i in range(DISTINCT)]


def texts(words: int) -> list[str]:
    """Make prompts for an engine that says them back."""
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=words)) for _ in range(DISTINCT)]


@dataclass(frozen=True)
class Chats:
    """The chats of a benchmark, the same for each server.

    Attributes:
        prompts: What users say.
        tokens: How many tokens each answer has.
        model: The folder of the model, for those who make the prompts' tokens themselves.

    """

    prompts: Sequence[str]
    tokens: int
    model: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as one client saw it; times are `time.monotonic`'s, in seconds.

    Attributes:
        prompt: Which of the prompts it answers.
        begun: When it was asked.
        at: When each piece with something new in it came.
        tokens: How many there were, as the server counts.
        finish: Why it ended, as the server says.
        text: What it says; empty where a server has no texts.
        token_ids: The same in tokens; empty where a server does not give them.

    """

    prompt: int
    begun: float
    at: list[float]
    tokens: int
    finish: str
    text: str = ""
    token_ids: Sequence[int] = ()


def distinct(replies: Sequence[Reply]) -> int:
    """Count the answers that differ."""
    return len({reply.text or tuple(reply.token_ids) for reply in replies})


class Caller(Protocol):
    """Asks a server, any number of chats at once. Use its block."""

    @property
    def messages(self) -> int:
        """How many came so far."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *_: object) -> None: ...

    async def ask(self, prompt: int) -> Reply:
        """Ask one of the prompts, and read the whole answer."""
        ...


class WrongAnswer(Exception):
    """A server did not answer what it was asked."""


@dataclass
class Expected:
    """What the right answers are: known, or learned from the first server.

    Attributes:
        finish: Why each ends.
        exact: Whether each must be word for word what the first one to its prompt was. A model in
            float32 on a CPU says the same in any batch; elsewhere sums depend on what is computed
            beside them, and all that can be told is how many are the same.

    """

    chats: Chats
    finish: str
    exact: bool
    texts: dict[int, str] = field(default_factory=dict)
    token_ids: dict[int, Sequence[int]] = field(default_factory=dict)

    def check(self, replies: Sequence[Reply]) -> float:
        """Return the share of replies that are the same as the first ones to their prompts.

        Raises:
            WrongAnswer: One is too short or too long, says nothing, ended otherwise, or had to be
                the same; or they had to be the same and too few differ.

        """
        ends = Counter((reply.tokens, reply.finish) for reply in replies)
        if set(ends) != {(self.chats.tokens, self.finish)}:
            msg = f"expected {self.chats.tokens} tokens and {self.finish!r}, got {dict(ends)}"
            raise WrongAnswer(msg)
        if any(not reply.text and not reply.token_ids for reply in replies):
            raise WrongAnswer("an answer says nothing")
        prompts, told = len({reply.prompt for reply in replies}), distinct(replies)
        if self.exact and 4 * told < prompts:
            msg = f"{prompts} prompts have {told} answers: one at the wrong place would not be seen"
            raise WrongAnswer(msg)
        other = [reply for reply in replies if not self._is_same(reply)]
        if other and self.exact:
            prompt = other[0].prompt
            msg = (
                f"{len(other)} of {len(replies)} are wrong: {self.chats.prompts[prompt]!r} is"
                f" answered {other[0].text!r}, not {self.texts.get(prompt)!r}"
            )
            raise WrongAnswer(msg)
        return 1 - len(other) / len(replies)

    def _is_same(self, reply: Reply) -> bool:
        """Compare what there is of both, the text or the tokens."""
        no_text = bool(reply.token_ids) and not reply.text
        text = no_text or reply.text == self.texts.setdefault(reply.prompt, reply.text)
        ids = not reply.token_ids or list(reply.token_ids) == list(
            self.token_ids.setdefault(reply.prompt, reply.token_ids)
        )
        return text and ids
