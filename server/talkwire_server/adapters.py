"""LoRA adapters as they are asked for: an id and a folder. Knows no vLLM."""

import os
import re
from collections.abc import Iterator, Sequence

from talkwire_server.errors import Violation

ADAPTER_ID = re.compile(r"[A-Za-z0-9._:/-]{1,128}")


def violations(id: str, path: str) -> list[Violation]:
    """Find every fault that can be seen without the model."""
    faults = []
    if not ADAPTER_ID.fullmatch(id):
        faults.append(Violation("id", f"must match {ADAPTER_ID.pattern}", "MALFORMED"))
    if not os.path.isdir(path):  # noqa: PTH112  # False, not an error, for what cannot be a path
        faults.append(Violation("path", "is no folder of the server's"))
    return faults


def modules(texts: Sequence[str]) -> dict[str, str]:
    """Read `--lora-modules`, which has no `module_faults`: the folder of each id."""
    return dict(text.split("=", 1) for text in texts)


def module_faults(texts: Sequence[str]) -> Iterator[str]:
    """Find every fault of `--lora-modules`."""
    seen = set()
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            yield f"--lora-modules must be NAME=PATH, got {text}"
            continue
        if name in seen:
            yield f"--lora-modules names {name} twice"
        seen.add(name)
        for fault in violations(name, path):
            yield f"--lora-modules {text}: {fault.field} {fault.description}"
