"""The pages of the documentation, and what in them is code. Runs nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

from processes import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_MARK = re.compile(r"<!-- (not run|run by): (.+) -->")
_COMMAND = re.compile(
    r"^\$ (.*<<'END'\n(?:.*\n)*?END|(?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE
)
_SAYS = re.compile(r"^ *# -> (.*)\n", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code on a page.

    Attributes:
        page: The page.
        line: Of the page, where the block begins.
        language: As its fence names it; empty for one without.
        text: What is in it.
        run_by: Where no session runs it, the test that does: a file, or a function in it.
        not_run: Why nothing runs it.

    """

    page: Path
    line: int
    language: str
    text: str
    run_by: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Step:
    """A command or a program of a page, and what it shall print."""

    block: Block
    code: str
    says: str


def blocks(page: Path) -> Iterator[Block]:
    """Yield the blocks of code of a page, with the mark in the comment right before them."""
    mark: dict[str, str] = {}
    for token in MarkdownIt().parse(page.read_text(encoding="utf-8")):
        if token.type in ("fence", "code_block"):
            line = token.map[0] + 1 if token.map else 0
            by, why = mark.get("run by", ""), mark.get("not run", "")
            yield Block(page, line, token.info, token.content, by, why)
        mark = dict(_MARK.findall(token.content)) if token.type == "html_block" else {}


def steps(page: Path) -> Iterator[Step]:
    """Yield what a reader would do who followed a page to the letter, but for what is marked."""
    for block in blocks(page):
        if block.run_by or block.not_run:
            continue
        if block.language == "python":
            says = "".join(f"{line}\n" for line in _SAYS.findall(block.text))
            yield Step(block, _SAYS.sub("", block.text), says)
        elif block.language == "console":
            for command, says in _COMMAND.findall(block.text):
                yield Step(block, command, says)
