"""The model's tokens as callers see them: their text, exact bytes and log-probabilities."""

import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice

from transformers.convert_slow_tokenizer import bytes_to_unicode
from vllm.logprobs import Logprob
from vllm.tokenizers import TokenizerLike

from talkwire_proto.v1 import chat_pb2 as pb

_BYTES = {char: byte for byte, char in bytes_to_unicode().items()}  # GPT-2's byte-level alphabet
_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's


class Vocabulary:
    """The tokens of one tokenizer."""

    def __init__(self, tokenizer: TokenizerLike) -> None:
        self._tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = "ByteLevel" in repr(getattr(backend, "decoder", None))
        self._special = set(tokenizer.all_special_ids)
        self.exact = lru_cache(65536)(self._exact)

    def logprob(self, token_id: int, ranked: Mapping[int, Logprob], most: int) -> pb.TokenLogprob:
        """Make the message of a token and the `most` likeliest at its place."""
        made = pb.TokenLogprob(token_id=token_id)
        if (own := ranked.get(token_id)) is None:  # of a prompt's first token nothing is known
            made.token = self._tokenizer.decode([token_id])
        else:
            made.token = own.decoded_token or ""
            made.logprob, made.rank = own.logprob, own.rank or 0
        exact = self.exact(token_id)
        if exact is not None and exact != made.token.encode():
            made.token_bytes = exact
        best = sorted((lp.rank or 0, other) for other, lp in ranked.items())
        made.alternatives.extend(
            pb.TokenLogprob.Alternative(
                token_id=other,
                token=ranked[other].decoded_token or "",
                logprob=ranked[other].logprob,
                rank=rank,
            )
            for rank, other in best
            if rank <= most
        )
        return made

    def lacks(self, text: str) -> str:
        """Return the characters of a text, of its first 1,000 beyond ASCII, that no tokens say."""
        beyond = (c for c in text if c > "\x7f" and not "\ud800" <= c <= "\udfff")
        own = islice(dict.fromkeys(beyond), 1000)
        tokens = self._tokenizer
        return "".join(
            c for c in own if c not in tokens.decode(tokens.encode(c, add_special_tokens=False))
        )

    def _exact(self, token_id: int) -> bytes | None:
        """Return the bytes of a token, None where its text is all there is."""
        piece = self._tokenizer.convert_ids_to_tokens([token_id])[0]
        if piece is None or token_id in self._special:
            return None
        if match := _BYTE_PIECE.fullmatch(piece):
            return bytes([int(match[1], 16)])
        if self._byte_level and all(char in _BYTES for char in piece):
            return bytes(_BYTES[char] for char in piece)
        return None
