"""A setting is a field of a dataclass, and its flag. Knows neither files nor the command line."""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

MOST = 1_000_000_000  # of what gRPC keeps in 32 bits


def flag(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    metavar: str | None = None,
    name: str | None = None,
) -> Any:
    """Make a field that a flag sets.

    Args:
        default: Its value without the flag.
        help: What it means, with its unit: what `--help` and the reader of the code see.
        at_least: The least value that it may have, if it has one.
        above: What the value must be greater than.
        at_most: The greatest.
        metavar: Of the value, in the help.
        name: Of the flag, without dashes; the field's own unless given.

    """
    bounds = {">=": at_least, ">": above, "<=": at_most}
    stated = {sign: bound for sign, bound in bounds.items() if bound is not None}
    metadata = {"help": help, "metavar": metavar, "name": name, "bounds": stated}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings about one matter. The first line of its docstring is its title in the help."""

    def faults(self) -> Iterator[str]:
        """Say what is wrong, beside the bounds of the fields."""
        yield from ()


def out_of_bounds(settings: Group) -> Iterator[str]:
    """Say which fields break their bounds."""
    for one in fields(settings):
        value, bounds = getattr(settings, one.name), one.metadata.get("bounds", {})
        broken = [
            sign
            for sign, bound in bounds.items()
            if value is not None
            and not {">=": value >= bound, ">": value > bound, "<=": value <= bound}[sign]
        ]
        if broken:
            rule = " and ".join(f"{sign} {bound:g}" for sign, bound in bounds.items())
            yield f"{flag_of(one)} must be {rule}, got {value:g}"


def flag_of(one: Any) -> str:
    """Name the flag of a field."""
    name: str = one.metadata.get("name") or one.name
    return f"--{name.replace('_', '-')}"
