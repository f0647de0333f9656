"""The benchmark of plain text runs on this tree."""

import sys
from pathlib import Path

import pytest

from processes import ROOT

sys.path.append(str(ROOT / "benchmarks"))


def test_a_token_of_plain_text_is_measured() -> None:
    """Its replay fits the engine as it is."""
    pytest.importorskip("vllm")
    from per_token import measure

    assert 0 < measure(Path(ROOT)) < 1000
