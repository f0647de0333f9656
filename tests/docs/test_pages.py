"""What the pages say of the project: their generated parts, tables, links and names hold."""

import ast
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import pytest

import flags
from load.report import Result
from pages import PAGES
from processes import ROOT, run
from tables import RESULTS
from talkwire import CallOptions, Client, Error
from talkwire._statuses import _BY_CODE, _BY_REASON
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.statuses import STATUSES

TEXTS = {page: page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS[ROOT / "README.md"]
FLAG = re.compile(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*")

OTHERS = {  # flags that no help of talkwire's tells
    "--help-engine",  # but as a sentence
    *("--grpc", "--grpc-port", "--headless", "--shutdown-timeout"),  # vllm serve
    *("--detach", "--profile", "--rm", "--scale", "--target", "--wait"),  # docker
    *("--dry-run", "--filename", "--from-file", "--kustomize"),  # kubectl
    *("--namespace", "--output"),  # the same
    *("--no-buffer", "--silent"),  # curl
    *("--address", "--head"),  # ray
    "--config-path",  # envoy
    *("--levels", "--servers"),  # benchmarks
    *("--native", "--threads"),  # py-spy
}


def text(name: str) -> str:
    return TEXTS[ROOT / "docs" / name]


def test_the_page_of_flags_is_that_of_the_settings() -> None:
    """Making it anew gives what is committed: `make docs`."""
    assert flags.page() == text("flags.md")


def test_every_reason_has_its_row_of_errors() -> None:
    """With the status that the server gives it, and the class that the client raises."""
    wanted = {
        (code.name, name, _BY_REASON.get(name, _BY_CODE.get(code)))
        for code, reason in STATUSES.values()
        if (name := pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_"))
    }
    names = {(code, name, kind.__name__ if kind else "ServerError") for code, name, kind in wanted}
    rows = re.findall(r"^\| ([A-Z_]+) \| ([A-Z_]+) \| `(\w+)` \|", text("errors.md"), re.MULTILINE)

    assert len(rows) == len(set(rows))
    assert names | {("UNIMPLEMENTED", "UNSUPPORTED_FEATURE", "Unsupported")} == set(rows)


def kinds(kind: type[Error]) -> Iterator[str]:
    yield kind.__name__
    for child in kind.__subclasses__():
        yield from kinds(child)


def test_every_exception_is_in_the_tree() -> None:
    """In the page's drawing, which is the module's but for what stands beside the names."""
    tree = re.search(r"```text\n(Error .*?)```", text("errors.md"), re.DOTALL)

    assert tree
    assert {line.strip("├─└│ ").split()[0] for line in tree[1].splitlines()} == {*kinds(Error)}


def test_the_readme_compares_as_the_page_does() -> None:
    """Each row of its table is one of the page's."""
    table = README.partition("## How it compares")[2].partition("\n\nWhat counts")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]

    assert len(rows) > 5
    assert [row for row in rows if row not in text("comparison.md")] == []


def test_the_speeds_of_the_comparison_are_those_of_the_results() -> None:
    """Each share of the bare engine's tokens is the one of the file that the page names."""
    own, shared = "talkwire", "talkwire multiplexed"
    tables = {
        "engines-h200": (own, shared, "openai http"),
        "engines-frontends-h200": (shared, f"{shared}, 4 frontends"),
        "engines-steps-cpu": (own, shared, "openai http", "vllm --grpc"),
    }
    rows = re.findall(r"^\| (\d+)((?: \| [\d.]+){2,4}) \|$", text("comparison.md"), re.MULTILINE)
    told = [
        (level, "".join(f" | {result.beside_raw(way, int(level))[0]}" for way in ways))
        for name, ways in tables.items()
        for result in [Result.read(RESULTS / f"{name}.json")]
        for level in ("64", "256", "512")
    ]

    assert rows == told


def test_what_the_readme_links_to_is_there() -> None:
    """MkDocs sees to the links of the other pages."""
    links = re.findall(r"\]\(([^)#]+)", README)
    inside = [link for link in links if not link.startswith("https://")]

    assert len(inside) > 10
    assert [link for link in inside if not (ROOT / link).exists()] == []


def calls(page: str) -> Iterator[ast.Call]:
    """Yield what stands in the text of a page as a call, or as the options of one."""
    for code in re.findall(r"`([^`\n]+)`", page):
        for form in (code, f"client.chat({code})"):
            with suppress(SyntaxError):
                yield from (
                    node
                    for node in ast.walk(ast.parse(form.replace("…", "_")))
                    if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("client.")
                )


@pytest.mark.parametrize("name", ["chats.md", "client.md"])
def test_the_options_in_the_text_are_the_clients(name: str) -> None:
    """As are the methods: `client.chat("…", n=3)`, `time_limit=2.5`."""
    options = {*CallOptions.__annotations__, *signature(Client.__init__).parameters}
    found = [*calls(text(name))]

    assert sum(bool(call.keywords) for call in found) >= 10
    for call in found:
        method = getattr(Client, ast.unparse(call.func).removeprefix("client."))
        named = {one.arg for one in call.keywords}
        assert named - options - {*signature(method).parameters} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    """Tests, benchmarks, examples and scripts."""
    named = re.findall(r"\b(?:tests|benchmarks|examples|scripts)/[\w/-]*\.\w+", TEXTS[page])

    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]")
def test_flags_that_the_pages_name_are_there() -> None:
    """Ours and vLLM's, as the helps of the commands tell them."""
    helps = (
        ["-m", "talkwire", "serve", "--help"],
        ["-m", "talkwire", "serve", "--help-engine"],
        ["-m", "talkwire", "ask", "--help"],
        ["-m", "talkwire", "ready", "--help"],
        ["-m", "talkwire", "top", "--help"],
        ["benchmarks/capacity.py", "--help"],
        ["benchmarks/metrics_cost.py", "--help"],
        ["benchmarks/stickiness.py", "--help"],
        ["benchmarks/proxied.py", "--help"],
    )
    told = "".join(run(sys.executable, *one).stdout for one in helps)
    known = OTHERS.union(FLAG.findall(told))

    assert "--max-num-seqs" in known
    assert {name for page in TEXTS.values() for name in FLAG.findall(page)} - known == set()
