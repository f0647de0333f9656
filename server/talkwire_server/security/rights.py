"""What a caller may do, as an operator or a tokens' issuer writes it. Knows no credentials."""

from collections.abc import Callable, Mapping
from typing import Any

from talkwire_server.callers import Caller


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(isinstance(n, str) for n in value)


_COUNT = ("a whole number >= 1", _is_count)
_RULES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "models": ("a list of model ids", _is_names),
    "weight": _COUNT,
    "max_running": _COUNT,
    "tokens_per_minute": _COUNT,
}


def caller(name: str, rights: Any) -> Caller:
    """Make a caller of its name and its rights; those that are not named are the server's own.

    Raises:
        ValueError: Names every fault of the rights.

    """
    if not isinstance(rights, dict):
        raise ValueError("must be a mapping")
    faults = [f"unknown key {key!r}" for key in rights if key not in _RULES]
    for key, (rule, fits) in _RULES.items():
        if key in rights and not fits(rights[key]):
            faults.append(f"{key} must be {rule}")
    if faults:
        raise ValueError(", ".join(faults))
    return Caller(name=name, **rights)
