"""Tools: what stands for one, and the functions that `run_tools` calls. Awaits nothing."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

from talkwire._fields import Faults, pairs, put
from talkwire._messages import as_json
from talkwire_proto.v1 import chat_pb2 as pb

ToolLike: TypeAlias = Callable[..., object] | pb.Tool | pb.Function | Mapping[str, object]
"""A function, of which name, docstring and annotations are told to the model (needs
`talkwire[pydantic]`); a message; or a mapping with `name`, `description`, `parameters` (a JSON
Schema, as JSON text or what it says) and `strict`.
"""

_MODES = {
    name.removeprefix("MODE_").lower(): value for name, value in pb.ToolChoice.Mode.items() if value
}


def tools(items: Iterable[ToolLike], faults: Faults) -> list[pb.Tool]:
    """Make tools of what stands for them."""
    made = []
    for i, item in enumerate(items):
        with faults.at(f"[{i}]"):
            made.append(_tool(item, faults))
    return made


def choice(name: str) -> pb.ToolChoice:
    """Make the choice of "auto", "none", "required", or one function by its name."""
    made = pb.ToolChoice()
    if name in _MODES:
        made.mode = _MODES[name]
    else:
        put(made, "function", name)
    return made


def forced(choice: str | None) -> bool:
    """Tell whether a choice leaves the model no other answer than a call."""
    return choice not in (None, "auto", "none")


def _tool(item: ToolLike, faults: Faults) -> pb.Tool:
    match item:
        case pb.Tool():
            return item
        case pb.Function():
            return pb.Tool(function=item)
        case _ if callable(item):
            return pb.Tool(function=_function(item))
    function = pb.Function()
    for key, value in pairs(item):
        with faults.at(f".{key}"):
            put(function, key, as_json(value) if key == "parameters" else value)
    return pb.Tool(function=function)


def _function(function: Callable[..., object]) -> pb.Function:
    from talkwire import _pydantic

    name = getattr(function, "__name__", "")
    if not name.isidentifier():
        raise ValueError("has no name: define it with def")
    parameters = _pydantic.schema(function)
    if parameters.get("type") != "object":
        raise ValueError("takes arguments without a name: a model gives them by name alone")
    description = inspect.getdoc(function) or ""
    return pb.Function(name=name, description=description, parameters=as_json(parameters))


class Toolbox:
    """The functions of one run, and what becomes of the calls of them.

    Attributes:
        tools: What the model is told of them.

    Raises:
        TypeError: There are none.
        ValueError: Not all can be called here; names every fault.

    """

    def __init__(self, items: Iterable[ToolLike], *, coroutines: bool) -> None:
        self.tools: list[pb.Tool] = []
        self._functions: dict[str, Callable[..., object]] = {}
        faults = Faults()
        for i, item in enumerate(items):
            with faults.at(f"tools[{i}]"):
                self._add(item, faults, coroutines)
        faults.check()
        if not self.tools:
            raise TypeError("run_tools needs tools=[...], the functions to run")

    def _add(self, item: ToolLike, faults: Faults, coroutines: bool) -> None:
        if not callable(item):
            raise TypeError("is no function that could be called")
        if inspect.iscoroutinefunction(item) and not coroutines:
            raise TypeError("is a coroutine function: AsyncClient awaits those")
        tool = _tool(item, faults)
        if tool.function.name in self._functions:
            msg = f"another function has the name {tool.function.name}"
            raise ValueError(msg)
        self.tools.append(tool)
        self._functions[tool.function.name] = item

    def is_coroutine(self, call: pb.ToolCall) -> bool:
        """Tell whether what `begin` returns is to be awaited."""
        return inspect.iscoroutinefunction(self._functions.get(call.name))

    def begin(self, call: pb.ToolCall) -> Any:
        """Call the function. Raises LookupError, ValueError, and whatever it raises."""
        from talkwire import _pydantic

        arguments = call.arguments or "{}"
        if not _pydantic.is_object(arguments):
            call.arguments = ""  # in the history, too: a server takes back none but JSON
            msg = f"the arguments must be a JSON object, not {arguments}"
            raise ValueError(msg)
        if (function := self._functions.get(call.name)) is None:
            msg = f"there is no function {call.name}, but {', '.join(self._functions)}"
            raise LookupError(msg)
        return _pydantic.call(function, arguments)

    def run(self, call: pb.ToolCall) -> pb.Message:
        """Call the function; return the message that tells the model of it."""
        with reporting(call) as message:
            message.text = written(self.begin(call))
        return message


@contextmanager
def reporting(call: pb.ToolCall) -> Iterator[pb.Message]:
    """Yield the message that answers a call; an exception of the block becomes its text."""
    message = pb.Message(role=pb.ROLE_TOOL, tool_call_id=call.id, name=call.name)
    try:
        yield message
    except Exception as error:
        message.text = f"error: {type(error).__name__}: {error}"


def written(result: Any) -> str:
    """Return a function's result as the model shall read it. Raises ValueError."""
    from talkwire import _pydantic

    return result if isinstance(result, str) else _pydantic.to_json(result)
