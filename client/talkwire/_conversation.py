"""A conversation: its messages and what may be done with them. Does no calls."""

from collections.abc import Iterable
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, Self, Unpack, cast

from google.protobuf import json_format

from talkwire._answer import Answer
from talkwire._fields import Faults
from talkwire._messages import MessageLike, Query, messages, saying, user
from talkwire._request import CallOptions, ChatOptions
from talkwire._tools import Toolbox, forced
from talkwire_proto.v1 import chat_pb2 as pb


class Transcript:
    """The messages of a conversation, and the options that every turn of it shares.

    Attributes:
        messages: The history, oldest first; the caller's own, to be read and changed freely.
        options: Options of every turn, `system` among them (see `ChatOptions`).
        sticky: Whether, or by which name, its turns go to one of several servers, where they find
            what they share in the prefix cache; see `CallOptions`.
        usage: Tokens of all turns so far.

    Raises:
        ValueError: A message is not one; names every fault.

    """

    def __init__(
        self,
        items: Iterable[MessageLike] = (),
        *,
        sticky: bool | str = True,
        **options: Unpack[ChatOptions],
    ) -> None:
        faults = Faults()
        with faults.at("messages"):
            self.messages = messages(items, faults)
        faults.check()
        self.options = options
        self.sticky = sticky
        self.usage = pb.Usage()

    def add(self, query: Query, answer: Answer) -> None:
        """Append a turn; without the calls, which may be halves, of an answer that was cut."""
        if query:
            self.messages.append(user(query, Faults()))
        self.messages.append(deepcopy(answer.message))
        if answer.finish_reason != "tool_calls":
            self.messages[-1].ClearField("tool_calls")
        for field, value in answer.usage.ListFields():
            setattr(self.usage, field.name, getattr(self.usage, field.name) + value)

    def _turn(self, options: CallOptions) -> CallOptions:
        if "messages" in options:
            raise TypeError("a conversation sends its own messages: change .messages instead")
        if options.get("continuation") is not None:
            raise TypeError("a conversation holds whole answers: continue one with its client")
        every = {"sticky": self.sticky, **self.options, **options, "messages": self.messages}
        return cast(CallOptions, every)

    def _equip(
        self, options: CallOptions, defaults: ChatOptions, *, coroutines: bool
    ) -> tuple[Toolbox, CallOptions, CallOptions, CallOptions | None]:
        """Return the functions of a run, and the options of its turns.

        Of the first, of the later ones, and of the one that brings the output, if one is wished.
        """
        every: CallOptions = {**defaults, **self.options, **options}
        tools = Toolbox(every.get("tools") or (), coroutines=coroutines)
        first: dict[str, Any] = {**options, "tools": tools.tools, "output": None}
        later = {**first, "continue_final_message": None}
        if forced(every.get("tool_choice")):
            later["tool_choice"] = "auto"
        output = every.get("output")
        last = None if output is None else {**later, "output": output, "tool_choice": "none"}
        return tools, cast(CallOptions, first), cast(CallOptions, later), cast(Any, last)

    def undo(self) -> Query | None:
        """Take back the last turn; return what its user said, None if there was none."""
        for at in reversed(range(len(self.messages))):
            if self.messages[at].role in (pb.ROLE_USER, pb.ROLE_UNSPECIFIED):
                said = saying(self.messages[at])
                del self.messages[at:]
                return said
        return None

    def clear(self) -> None:
        """Forget the messages; the options stay."""
        self.messages.clear()

    def fork(self) -> Self:
        """Return a copy that goes its own way, with the same client."""
        other = copy(self)
        other.messages, other.usage = deepcopy(self.messages), deepcopy(self.usage)
        other.options = self.options.copy()
        return other

    def save(self, path: str | Path) -> None:
        """Write the conversation, one `talkwire.v1.Message` as JSON a line, the system first."""
        system = self.options.get("system")
        head = [] if system is None else [pb.Message(role=pb.ROLE_SYSTEM, text=system)]
        lines = [json_format.MessageToJson(m, indent=None) for m in (*head, *self.messages)]
        Path(path).write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def load(self, path: str | Path) -> None:
        """Take the messages and the system of a saved conversation in place of these.

        Raises:
            OSError: The file cannot be read.
            ValueError: A line is not a message; nothing was changed.

        """
        read = []
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            try:
                read.append(json_format.Parse(line, pb.Message()))
            except json_format.ParseError as error:
                msg = f"{path}, line {number}: {error}"
                raise ValueError(msg) from None
        self.options.pop("system", None)
        if read and read[0].role == pb.ROLE_SYSTEM:
            self.options["system"] = read.pop(0).text
        self.messages[:] = read
