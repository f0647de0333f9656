"""Exit statuses: the one table from failures to them. Does no I/O."""

from collections.abc import Mapping

from talkwire._errors import (
    Error,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    RequestIdInUse,
    ServerError,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unsupported,
)

FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells have it
BROKEN_PIPE = 141  # 128 + SIGPIPE

_STATUSES: Mapping[type[Error], int] = {
    ServerError: FAILED,
    InvalidRequest: USAGE,
    RequestIdInUse: USAGE,
    Unsupported: USAGE,
    Unavailable: 3,
    Timeout: 4,
    ModelNotFound: 5,
    Unauthenticated: 6,
    PermissionDenied: 6,
    Overloaded: 7,
}

MEANINGS: Mapping[int, str] = {
    0: "answered",
    FAILED: "the server failed",
    USAGE: "the command line or the request is wrong, or this server does not support it",
    3: "no connection, or the server is loading or leaving",
    4: "the time limit passed",
    5: "no such model",
    6: "the token is missing or wrong, or does not allow this",
    7: "the server has too much to do",
    INTERRUPTED: "Ctrl-C",
    BROKEN_PIPE: "the reader of the answer left",
}


class Complaint(Exception):
    """What ends a command, in words for its user, and the exit status that goes with it."""

    def __init__(self, text: str, status: int = USAGE) -> None:
        super().__init__(text)
        self.status = status


# What was made elsewhere must not steer a terminal: of control characters tab and newline stay.
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {9, 10})


def harmless(text: str) -> str:
    """Return a text without what a terminal would obey."""
    return text.translate(_CONTROLS)


def status(error: Error) -> int:
    """Return the exit status of a failed call."""
    return next((_STATUSES[kind] for kind in type(error).mro() if kind in _STATUSES), FAILED)
