"""What became of the calls of a simulation. Only holds it."""

from array import array
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Seen:
    """What became of the calls.

    Attributes:
        came: How many calls were asked, those of the beginning among them.
        answered: How many had their whole answer.
        refused: How many were refused for good: as often as a client tries.
        lost: How many broke off and did not go on.
        there: How many are still being answered, or tried.
        deaths: Of replicas.
        moved: Calls that went on elsewhere.
        rates: Tokens a second of each answer that came and went, from its first to its last token.
        amid: The same of those amid which, or shortly before which, something died.
        firsts: Seconds that its first token took, with all waiting.
        tokens: Given in all.

    """

    came: int = 0
    answered: int = 0
    refused: int = 0
    lost: int = 0
    there: int = 0
    deaths: int = 0
    moved: int = 0
    tokens: float = 0
    rates: "array[float]" = field(default_factory=lambda: array("d"))
    amid: "array[float]" = field(default_factory=lambda: array("d"))
    firsts: "array[float]" = field(default_factory=lambda: array("d"))
