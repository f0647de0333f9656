"""Where the terminal chat keeps its files: $XDG_STATE_HOME/talkwire; by default ~/.local/state."""

import os
from pathlib import Path


def folder() -> Path:
    """Return the folder, made where it was not there; for its owner's eyes only."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():  # unset, empty, or to be ignored by the XDG specification
        state = Path.home() / ".local" / "state"
    path = state / "talkwire"
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path
