"""How much one request may hold. Not how many requests there may be."""

from dataclasses import dataclass
from typing import Literal

from talkwire_server.settings.flag import Group, flag


@dataclass(frozen=True, kw_only=True)
class LimitSettings(Group):
    """Limits of a request."""

    max_request_fields: int = flag(
        10_000, "fields; each message, part, word and value counts", at_least=16
    )
    max_token_ids: int = flag(131_072, "in one list of token ids", at_least=1)
    max_words: int = flag(64, "stop words, and as many bad words", at_least=1)
    max_word_chars: int = flag(256, "characters of such a word, and of a name or id", at_least=1)
    max_tools: int = flag(256, "tools, and as many documents", at_least=1)
    max_schema_chars: int = flag(
        16_384, "characters of a JSON Schema, regex, grammar or structural tag", at_least=64
    )
    max_json_chars: int = flag(
        262_144, "characters of all tools' parameters and calls' arguments", at_least=64
    )
    grammar_compile_timeout: float = flag(
        8.0,
        "of a processor's time to compile a grammar, or a schema that may cost it",
        above=0,
        metavar="S",
    )
    grammar_token_timeout: float = flag(
        0.005, "of it to find which tokens may follow, on average", above=0, metavar="S"
    )
    grammar_memory_bytes: int = flag(512 << 20, "memory for each of these", at_least=64 << 20)
    special_tokens_in_text: Literal["allow", "escape", "refuse"] = flag(
        "escape", "what is done where a text would make the template's control tokens"
    )
