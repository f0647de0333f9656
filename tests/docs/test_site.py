"""The site that MkDocs makes of docs/: whole, and at home where there is no network."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from processes import ROOT

ELSEWHERE = re.compile(r"(https?:)?//")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; a warning, such as of a page that no way leads to, is a failure."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    return folder


class Loads(HTMLParser):
    """Gathers what a browser fetches for a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag; what `a` leads to is fetched only for who goes there."""
        if tag != "a":
            self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def loads(site: Path) -> Iterator[str]:
    for page in site.rglob("*.html"):
        parser = Loads()
        parser.feed(page.read_text(encoding="utf-8"))
        yield from parser.found
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        yield from re.findall(r"url\(['\"]?((?!data:)[^)]+)|@import ['\"]([^'\"]+)", text)


def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures are its own, so that it works in a closed network."""
    found = {"".join(one) for one in loads(site)}

    assert len(found) > 10
    assert {one for one in found if ELSEWHERE.match(one)} == set()


def test_each_page_and_picture_is_there(site: Path) -> None:
    """What pages link to outside docs/ is a file of the site."""
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")}

    assert pages < {page.stem for page in site.glob("*.html")}
    for file in ("proto/talkwire/v1/chat.proto", "benchmarks/results/engines-h100.png"):
        assert (site / "source" / file).read_bytes() == (ROOT / file).read_bytes()
