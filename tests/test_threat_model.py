"""docs/threat_model.md names tests that exist."""

import re

from processes import ROOT

PAGE = (ROOT / "docs/threat_model.md").read_text()


def test_every_line_has_a_test_that_exists() -> None:
    """A file, or a test in it; what is not prevented says so."""
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)

    assert len(named) > 30
    for file, test in named:
        assert re.search(
            rf"^(async )?def {test}\b" if test else "", (ROOT / file).read_text(), re.MULTILINE
        )
    for line in PAGE.splitlines():
        if line.startswith("| ") and not line.startswith("| an attacker"):
            assert "*open*" in line or "`tests/" in line
