"""Which tests go to the same process where several test side by side: `--numprocesses 2`.

One has all that need the real engine, which is there once, and then those that fork a terminal,
which must come before the clients of that process; the others have whole files.
"""

from typing import Any

import pytest

TOGETHER = (
    "tests/engine/",
    "tests/cli/",
    "tests/faults/test_endings.py",
    "tests/faults/test_replicas.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make what hands the tests out."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]  # without types
        def _split_scope(self, nodeid: str) -> str:
            return "engine" if nodeid.startswith(TOGETHER) else nodeid.partition("::")[0]

    return Scheduler(config, log)
