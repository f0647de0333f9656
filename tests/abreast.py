"""Which tests go to the same process where several test side by side: `--numprocesses 2`.

One has all that need the tests' one engine, the other begins with those that fork a terminal, which
must come before the clients of that process. One has those of the Ray cluster; else each has whole
files.
"""

from typing import Any

import pytest

TOGETHER = {
    "tests/engine/": "engine",
    "tests/cli/": "terminals",
    "tests/faults/test_endings.py": "engine",
    "tests/faults/test_replicas.py": "engine",
    "tests/ray_serve/": "ray",
}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make what hands the tests out."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # without types
        def _split_scope(self, nodeid: str) -> str:
            for path, scope in TOGETHER.items():
                if nodeid.startswith(path):
                    return scope
            return nodeid.partition("::")[0]

    return Scheduler(config, log)
