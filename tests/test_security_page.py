"""docs/security.md, beside its session: its files, and the flags that it must name."""

import re
from dataclasses import fields
from pathlib import Path

from processes import ROOT
from talkwire_server import options
from talkwire_server.security.tokens import Tokens
from talkwire_server.settings.flag import flag_of
from talkwire_server.settings.security import SecuritySettings

PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
YAML = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


def test_the_token_file_is_one(tmp_path: Path) -> None:
    """The example can be read."""
    file = tmp_path / "tokens.yaml"
    file.write_text(YAML[0])

    assert Tokens(str(file))


def test_the_config_file_is_one(tmp_path: Path) -> None:
    """The flags of the example are the server's."""
    file = tmp_path / "config.yaml"
    file.write_text(YAML[1])
    settings = options.parse(["--config", str(file)], {})

    assert (settings.jwt_audience, settings.engine_args) == ("talkwire", ())
    assert len(YAML) == 2


def test_every_flag_is_on_the_page() -> None:
    """What can be set is told."""
    flags = {flag_of(one).removeprefix("--") for one in fields(SecuritySettings)}

    assert {flag for flag in flags if flag not in PAGE} == set()
