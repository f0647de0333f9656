"""What the sampling of a request may be, whatever the model. Knows no other field."""

import math
from collections.abc import Iterator

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import Violation


def sampling_violations(sampling: pb.Sampling) -> Iterator[Violation]:
    """Find the values out of range."""

    def bad(name: str, rule: str, value: object) -> Violation:
        return Violation(f"sampling.{name}", f"must be {rule}, got {value}", "OUT_OF_RANGE")

    for name, (low, high, rule) in _RANGES.items():
        if sampling.HasField(name):  # type: ignore[arg-type]  # the table holds field names
            value = getattr(sampling, name)
            if not low <= value <= high:  # also false for NaN
                yield bad(name, rule, f"{value:g}" if isinstance(value, float) else value)
    if 1 <= sampling.max_tokens < sampling.min_tokens:
        yield bad("min_tokens", f"<= max_tokens ({sampling.max_tokens})", sampling.min_tokens)
    for name in ("stop", "bad_words"):
        for i, word in enumerate(getattr(sampling, name)):
            if not word:
                yield Violation(f"sampling.{name}[{i}]", "must not be empty", "REQUIRED")
    for name in ("stop_token_ids", "allowed_token_ids"):
        for i, token in enumerate(getattr(sampling, name)):
            if token < 0:
                yield bad(f"{name}[{i}]", ">= 0", token)
    for token, bias in sampling.logit_bias.items():
        if token < 0:
            yield bad(f"logit_bias[{token}]", "keyed by token ids >= 0", token)
        if not -100 <= bias <= 100:
            yield bad(f"logit_bias[{token}]", "in [-100, 100]", f"{bias:g}")


_TINY = math.ulp(0.0)
_MOST = math.nextafter(math.inf, 0)
# field: (lowest, highest, rule)
_RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (0, 2, "in [0, 2]"),
    "top_p": (_TINY, 1, "in (0, 1]"),
    "top_k": (-1, _MOST, ">= 1, or 0 or -1 to turn it off"),
    "min_p": (0, 1, "in [0, 1]"),
    "max_tokens": (1, _MOST, ">= 1"),
    "min_tokens": (0, _MOST, ">= 0"),
    "presence_penalty": (-2, 2, "in [-2, 2]"),
    "frequency_penalty": (-2, 2, "in [-2, 2]"),
    # Beyond these 32 bits make infinities of what engines divide by it.
    "repetition_penalty": (1e-30, 1e30, "in [1e-30, 1e30]"),
}
