"""What pages link to outside docs/ becomes a file of the site. A hook of MkDocs; see mkdocs.yml."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"(?<=\]\()\.\./([^)#]+)")


def on_page_markdown(
    markdown: str,
    *,
    page: Page,  # noqa: ARG001  # the protocol
    config: MkDocsConfig,
    files: Files,
) -> str:
    """Lead `](../benchmarks/results/a.png)` to a copy of that file, `source/benchmarks/...`."""

    def copied(link: re.Match[str]) -> str:
        path = f"source/{link[1]}"
        if files.get_file_from_path(path) is None:
            files.append(File.generated(config, path, abs_src_path=str(ROOT / link[1])))
        return path

    return OUTSIDE.sub(copied, markdown)
