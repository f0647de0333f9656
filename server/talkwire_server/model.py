"""The embedded default model and the folder that keeps it. Knows nothing of vLLM."""

import argparse
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from talkwire_server import preparation
from talkwire_server.preparation import ModelError

__all__ = ["NAME", "ModelError", "is_prepared", "location", "main", "prepare", "remove"]

NAME = "SmolLM2-135M-Instruct"

_PARTIAL = ".partial-"  # begins the names of folders that are being made or removed


def location() -> Path:
    """Return the folder where the model is, or would be: in $XDG_CACHE_HOME or ~/.cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():  # unset, empty, or to be ignored by the XDG specification
        cache = Path.home() / ".cache"
    return cache / "talkwire" / NAME


def is_prepared() -> bool:
    """Tell whether the model is there. It is never there by halves."""
    return location().is_dir()


def prepare() -> Path:
    """Return the model's folder, making it first where it is not there; progress goes to stderr.

    Making it takes a download of 93 MB and half a minute. A second process that wants the model
    meanwhile waits for the first. Raise ModelError without a network, without 600 MB of space, or
    when the weights are not the ones expected.
    """
    folder = location()
    if is_prepared():
        return folder
    with _alone(folder.parent):
        if not is_prepared():
            _require_space(folder.parent, preparation.SPACE_BYTES)
            with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder.parent) as work:
                preparation.make(Path(work)).rename(folder)
    return folder


def remove() -> bool:
    """Remove the model and what interrupted preparations left; tell whether it was there."""
    folder = location()
    with _alone(folder.parent):
        if not is_prepared():
            return False
        # Out of the way first: renaming takes one step, removing takes several.
        with tempfile.TemporaryDirectory(prefix=_PARTIAL, dir=folder.parent) as work:
            folder.rename(Path(work) / NAME)
        return True


def main(argv: Sequence[str]) -> int:
    """Run `talkwire model [show|prepare|remove]` and return its exit status."""
    parser = argparse.ArgumentParser(
        prog="talkwire model", description="Show, prepare or remove the embedded default model."
    )
    parser.add_argument("action", nargs="?", choices=("show", "prepare", "remove"), default="show")
    action = parser.parse_args(argv).action
    try:
        if action == "prepare":
            text = f"{prepare()} is prepared\n"
        elif action == "remove":
            text = f"{location()} {'is removed' if remove() else 'was not there'}\n"
        else:
            text = _description()
    except ModelError as error:
        sys.stderr.write(f"talkwire model: {error}\n")
        return 1
    sys.stdout.write(text)
    return 0


def _description() -> str:
    if is_prepared():
        state = f"prepared, {preparation.size(location()) / 1e6:.0f} MB"
    else:
        state = "not prepared; `talkwire model prepare` does it, and so does the first start"
    return (
        f"name     {NAME}\n"
        f"licence  Apache-2.0\n"
        f"source   PyPI, {preparation.WHEEL}: Q4_1, dequantized to bfloat16\n"
        f"folder   {location()}\n"
        f"state    {state}\n"
    )


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the lock of a cache folder, free of what interrupted processes left in it."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.stderr.write("Waiting for another process that prepares the model\n")
                fcntl.flock(lock, fcntl.LOCK_EX)
            for leftover in cache.glob(_PARTIAL + "*"):
                shutil.rmtree(leftover)
            yield
    except OSError as error:
        raise ModelError(f"{cache} cannot be written: {error.strerror}") from error


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ModelError(
            f"{NAME} takes {needed / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free"
        )
