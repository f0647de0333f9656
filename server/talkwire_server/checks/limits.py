"""How much a request may hold. Looks at sizes alone, before anything walks what there is."""

from collections.abc import Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import Violation
from talkwire_server.settings.limits import LimitSettings


def limit_violations(request: pb.ChatRequest, limits: LimitSettings) -> Iterator[Violation]:
    """Find the lists that are too long, and the words."""
    sampling = request.sampling
    for path, found, most, unit in (
        ("tools", request.tools, limits.max_tools, "tools"),
        ("template.documents", request.template.documents, limits.max_tools, "documents"),
        ("sampling.stop", sampling.stop, limits.max_words, "words"),
        ("sampling.bad_words", sampling.bad_words, limits.max_words, "words"),
        ("sampling.logit_bias", sampling.logit_bias, limits.max_token_ids, "entries"),
        ("sampling.stop_token_ids", sampling.stop_token_ids, limits.max_token_ids, "ids"),
        ("sampling.allowed_token_ids", sampling.allowed_token_ids, limits.max_token_ids, "ids"),
        ("continuation.token_ids", request.continuation.token_ids, limits.max_token_ids, "ids"),
    ):
        if len(found) > most:
            yield _more(path, most, unit, len(found))
    for name in ("stop", "bad_words"):
        for i, word in enumerate(getattr(sampling, name)[: limits.max_words]):
            if len(word) > limits.max_word_chars:
                path = f"sampling.{name}[{i}]"
                yield _more(path, limits.max_word_chars, "characters", len(word))


def _more(path: str, most: int, unit: str, found: int) -> Violation:
    return Violation(path, f"must have at most {most} {unit}, got {found}", "OUT_OF_RANGE")
