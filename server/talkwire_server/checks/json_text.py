"""JSON as callers write it: what is wrong with a text. Knows no fields and no schemas."""

import json
import math
from collections.abc import Iterable
from typing import Any

MOST_LEVELS = 100  # of nesting, as in protobuf: what reads the value next may recurse


def json_fault(text: str, *kinds: type) -> str:
    """Say what keeps a text from being JSON (of one of some kinds); empty if nothing does."""
    try:
        value = json.loads(text, parse_constant=_number, parse_float=_number)
        if "\\" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return f"is not JSON at character {error.pos}"
    except UnicodeEncodeError:
        return "holds half of a surrogate pair"
    except ValueError:
        return "holds a number that cannot be read"
    except RecursionError:
        return _DEEP
    if kinds and not isinstance(value, kinds):
        return f"must be JSON of {' or '.join(_NAMES[kind] for kind in kinds)}"
    return _DEEP if _levels(value) > MOST_LEVELS else ""


_DEEP = f"is nested deeper than {MOST_LEVELS} levels"
_NAMES = {bool: "true or false", dict: "an object"}


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # Python reads, and would write, what JSON does not have
        raise ValueError
    return number


def _levels(value: Any) -> int:
    level, count = [value], 0
    while level := [child for item in level for child in children(item)]:
        count += 1
    return count


def children(value: Any) -> Iterable[Any]:
    """Return what a JSON value holds."""
    match value:
        case dict():
            return value.values()
        case list():
            return value
    return ()
