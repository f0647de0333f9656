"""The page of the server's flags, docs/flags.md, made of its settings.

python scripts/flags.py > docs/flags.md
"""

from collections.abc import Iterator
from dataclasses import Field, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from talkwire_server.options import PREFIX
from talkwire_server.settings import GROUPS
from talkwire_server.settings.flag import Group, flag_of

HEAD = f"""\
# Flags

<!-- made by scripts/flags.py -->

All of `talkwire serve`, as its `--help` tells them; `S` is seconds. Each is also an environment
variable (`--max-num-seqs` is `{PREFIX}MAX_NUM_SEQS`) and a key of `--config FILE`, a YAML file,
without the dashes. Of a flag given twice the last counts: the command line goes before the
environment, and that before the file. [Run a server](server.md) says what they are for.

Every engine flag of vLLM's stands beside them under its own name: `talkwire serve --help-engine`.
"""


def page() -> str:
    """Make the page: a table for each group of settings."""
    return "\n".join([HEAD, *(line for group in GROUPS for line in _table(group))])


def _table(group: type[Group]) -> Iterator[str]:
    hints = get_type_hints(group)
    if not any(one.metadata for one in fields(group)):  # settings of the environment alone
        return
    yield f"## {(group.__doc__ or '').rstrip('.')}\n"
    yield from ("| flag | default | |", "|---|---|---|")
    for one in fields(group):
        if one.metadata:
            hint, means = hints[one.name], one.metadata["help"]
            if get_origin(hint) is Literal:
                means += f" ({', '.join(get_args(hint))})"
            yield f"| `{_spelled(one, hint)}` | {_default(one.default)} | {means} |"
    yield ""


def _spelled(one: Field[Any], hint: Any) -> str:
    """Name a flag, and what follows it."""
    name, value = flag_of(one), one.metadata["metavar"] or ""
    if hint is bool:
        return name.replace("--", "--no-") if one.default else name
    if get_origin(hint) is tuple:
        value += " …"
    return f"{name} {value}".rstrip().replace("|", " or ")  # a bar would end the cell


def _default(value: object) -> str:
    """Spell a default as one would type it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value in (None, ()) else str(value).removesuffix(".0")


if __name__ == "__main__":
    print(page(), end="")
