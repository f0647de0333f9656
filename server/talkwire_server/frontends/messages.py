"""What the supervisor and its frontends tell each other."""

from typing import Any, NamedTuple

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission.fair_queue import Size
from talkwire_server.callers import Caller
from talkwire_server.errors import CallError

# To the supervisor. A frontend numbers what it asks for.


class Enter(NamedTuple):
    """Let a call in."""

    number: int
    id: str
    caller: Caller
    n: int
    priority: int
    arrival: float
    size: Size
    held: int
    left: float | None


class Count(NamedTuple):
    """Let a CountTokens in."""

    number: int
    caller: Caller


class Stream(NamedTuple):
    """Count a ChatMultiplex, unless it can move and another frontend has fewer."""

    number: int
    moves: bool


class Leave(NamedTuple):
    """What was let in has left, or waits no more."""

    number: int
    used: int = 0


class Abort(NamedTuple):
    """End a call, whoever has it."""

    number: int
    id: str
    caller: Caller


class Done(NamedTuple):
    """A step is done, or it failed, with a line for the operator."""

    step: str
    result: Any
    failure: str = ""


class Beat(NamedTuple):
    """How many requests the engine has not finished, and how many steps it made, as seen here."""

    unfinished: int
    steps: int


# To a frontend.


class Entered(NamedTuple):
    """The call is in; without places, if it was ended before."""

    number: int
    places: int
    waited: float


class Streams(NamedTuple):
    """The ChatMultiplex is counted; or it should move."""

    number: int
    stays: bool


class Refused(NamedTuple):
    """The call is not let in."""

    number: int
    error: CallError


class Aborted(NamedTuple):
    """Whether there was such a call."""

    number: int
    found: bool


class Do(NamedTuple):
    """Take a step of a server's life."""

    step: str
    argument: Any = None


# Both ways.


class End(NamedTuple):
    """The call shall end where it is."""

    number: int
    reason: pb.FinishReason.ValueType
