"""What is pydantic's work: schemas of functions and types, and their values.

The one module that imports pydantic. Import it where it is needed, not before.
"""

from collections.abc import Callable
from typing import Any

try:
    import pydantic_core
    from pydantic import PydanticUserError, TypeAdapter, ValidationError
except ImportError:
    msg = "functions as tools, types as output and parsed_so_far need talkwire[pydantic]"
    raise ImportError(msg) from None


def adapter(of: Any) -> TypeAdapter[Any]:
    """Return pydantic's view of a type or function. Raises ValueError where it has none."""
    try:
        return TypeAdapter(of)
    except (NameError, PydanticUserError) as error:
        raise ValueError(_first_line(error)) from None


def schema(of: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type, or of a function's arguments. Raises ValueError."""
    try:
        return adapter(of).json_schema()
    except PydanticUserError as error:
        raise ValueError(_first_line(error)) from None


def is_object(text: str) -> bool:
    """Tell whether a text is a JSON object, as RFC 8259 has it."""
    try:
        return isinstance(pydantic_core.from_json(text, allow_inf_nan=False), dict)
    except ValueError:
        return False


def call(function: Callable[..., object], arguments: str) -> Any:
    """Call a function with arguments in JSON, as its annotations understand them.

    Raises:
        ValueError: They are not its arguments; names every fault.
        Exception: Whatever the function raises.

    """
    try:
        return adapter(function).validate_json(arguments)
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ValueError("; ".join(faults)) from None


def to_json(value: Any) -> str:
    """Return a value as JSON: dataclasses, dates and models, too. Raises ValueError."""
    return pydantic_core.to_json(value).decode()


def partial(text: str) -> Any:
    """Read JSON that breaks off, as far as it came; None where nothing can be read."""
    try:
        return pydantic_core.from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
