"""How much one request may hold. Not how many requests there may be."""

from dataclasses import dataclass

from talkwire_server.settings.flag import Group, flag


@dataclass(frozen=True, kw_only=True)
class LimitSettings(Group):
    """Limits of a request."""

    max_request_fields: int = flag(
        10_000, "fields; each message, part, word and value counts", at_least=16
    )
    max_token_ids: int = flag(131_072, "in one list of token ids", at_least=1)
    max_words: int = flag(64, "stop words, and as many bad words", at_least=1)
    max_word_chars: int = flag(256, "characters of such a word", at_least=1)
    max_tools: int = flag(256, "tools, and as many documents", at_least=1)
