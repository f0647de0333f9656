"""What somebody probably meant. Knows words only."""

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, words: Iterable[str]) -> str:
    """Return " (did you mean ...?)" with the most similar of the words; empty without one."""
    found = get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
