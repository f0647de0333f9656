"""Why vLLM could not import a model: as a rule for want of a package, which is named."""

import re
from importlib.metadata import version
from importlib.util import find_spec

from vllm.model_executor.models import ModelRegistry

_UNINSPECTED = re.compile(r"architectures \[(.*)\] failed to be inspected")

# How transformers says it: with the command that installs the package, or in words alone.
_TOLD = re.compile(r"pip install ([\w-]+)"), re.compile(r"requires the (\w+) library")


def missing(error: Exception) -> str | None:
    """Say in one line what is missing and how to install it, if that is why vLLM failed."""
    if isinstance(error, ImportError):
        return f"it needs {package}" if (package := _package(error)) else None
    # vLLM inspects in a process of its own and keeps the reason to itself; here it comes again.
    uninspected = re.findall(r"\w+", "".join(_UNINSPECTED.findall(str(error))))
    for name in ModelRegistry.models.keys() & uninspected:
        try:
            ModelRegistry.models[name].load_model_cls()
        except Exception as reason:
            if package := _package(reason):
                return f"{name} needs {package}"
            return f"{name} cannot be imported: {' '.join(str(reason).split())}"
    return None


def _package(error: BaseException | None) -> str | None:
    """Find the package whose absence an exception tells of, or one that led to it."""
    while isinstance(error, ImportError):
        told = [found[1].lower() for pattern in _TOLD if (found := pattern.search(str(error)))]
        name = error.name.partition(".")[0] if error.name else next(iter(told), "")
        if name and not find_spec(name):
            return f"{name}: {_command(name)}"
        error = error.__cause__ or error.__context__
    return None


def _command(name: str) -> str:
    """Say how to install a package beside the torch that is there, for which it may be built.

    pip then chooses the version that belongs to that torch, and its build for CPUs if torch's is.
    """
    torch = version("torch")
    _, _, build = torch.partition("+")
    index = f" --extra-index-url https://download.pytorch.org/whl/{build}" if build else ""
    return f"pip install {name} torch=={torch}{index}"
