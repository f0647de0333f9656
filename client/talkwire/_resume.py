"""The calls that one answer takes, and when another follows one that broke off. Makes none."""

from collections.abc import Callable, Iterator, Mapping
from math import inf
from random import uniform
from time import monotonic
from typing import Any

from talkwire._answer import Answer
from talkwire._balance import Route
from talkwire._errors import Error, Overloaded, RequestIdInUse, Unavailable
from talkwire._statuses import broke, taken
from talkwire_proto.v1 import chat_pb2 as pb

TRIES = 10  # in a row that servers took, and lost without a new token; the time bounds the others
_FIRST, _LONGEST = 0.1, 5.0  # pauses, in seconds


class Course:
    """One call, or with `resume` as many as the answer takes, in the time that the first was given.

    All have the id of the first: a server that does not know yet that it lost its caller refuses
    the next call rather than run both.

    Args:
        request: What the first call asks.
        arguments: Makes the arguments of a call, of what it says of its trace.
        begun: The answer that the request goes on with, if that is part of the whole.
        route: Which servers are asked, and which again after a refusal.
        resume: Whether calls may follow.

    Attributes:
        request: What the next call asks.
        route: As it was given.
        begun: As it was given.
        resume: Whether calls may follow, from now on.
        trace: What all calls say of it.

    Raises:
        ValueError: The answer could not go on; names every field that stands against it.

    """

    def __init__(
        self,
        request: pb.ChatRequest,
        arguments: Callable[[Mapping[str, str]], dict[str, Any]],
        begun: Answer | None,
        route: Route[Any],
        *,
        resume: bool,
    ) -> None:
        self.begun = begun
        self.route = route
        self.request = _resumable(request) if resume else request
        self._first = self.request
        self._arguments = arguments
        self._given = [] if begun else list(request.continuation.token_ids)
        self.resume = resume
        self.trace: Mapping[str, str] = {}
        self._tokens = self._tries = self._lost = 0
        self._begin, self._end = 0.0, inf
        self._sent = ""  # the latest call's id, as far as the request has none

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the next call, with the time that is left."""
        now, call = monotonic(), self._arguments(self.trace)
        self._sent = dict(call["metadata"]).get("x-request-id", "")
        if not self._begin:
            self._begin = now
            self._end = inf if call["timeout"] is None else now + call["timeout"]
        return call if self._end == inf else {**call, "timeout": max(0.0, self._end - now)}

    def follow(self, error: Error, id: str, answer: Answer) -> float:
        """Make the request that goes on; return after how many seconds to send it.

        Raises:
            Error: What was given: no call may follow, or none in time.

        """
        self.route.leave()
        again = None if id else self.route.again(error)
        if again is not None and monotonic() + again < self._end:
            return again
        if len(answer.token_ids) > self._tokens:
            self._tokens, self._tries, self._lost = len(answer.token_ids), 0, 0
        else:
            self._lost += taken(error)
        # One that refuses to go on may be full, or not know yet that it lost this caller.
        passing = (Unavailable, Overloaded, RequestIdInUse) if self._tries else Unavailable
        # Where a proxy lost the server nobody knows whether it had let the call in.
        asked = self.request.request_id or self._sent
        known = id or (asked if self._tries or broke(error) else "")
        if not (self.resume and known and isinstance(error, passing) and self._lost < TRIES):
            raise error
        pause = uniform(0, min(_LONGEST, _FIRST * 2 ** min(self._tries, 6)))  # noqa: S311  # no secret
        if self._tries:  # at first there may be another server
            pause += error.retry_after or 0
        if monotonic() + pause >= self._end:
            raise error
        self._tries += 1
        self.request = self._rest(known, answer)
        return pause

    def _rest(self, id: str, answer: Answer) -> pb.ChatRequest:
        request = pb.ChatRequest()
        request.CopyFrom(self._first)
        request.request_id = id
        if had := [*self._given, *answer.token_ids]:
            request.continuation.token_ids[:] = had
        if answer.prompt_token_ids:
            request.include.prompt_token_ids = False
        if request.HasField("time_limit"):
            gone = int((monotonic() - self._begin) * 1e9)
            left = request.time_limit.ToNanoseconds() - gone
            request.time_limit.FromNanoseconds(max(1, left))
        return request


def _resumable(request: pb.ChatRequest) -> pb.ChatRequest:
    if against := [*_against(request)]:
        msg = f"resume: an answer with {', '.join(against)} cannot go on: ask with resume=False"
        raise ValueError(msg)
    made = pb.ChatRequest()
    made.CopyFrom(request)
    made.include.token_ids = True
    return made


def _against(request: pb.ChatRequest) -> Iterator[str]:
    """Name what does not go with a continuation, or with the token ids that it takes."""
    choice = request.tool_choice
    if request.n > 1:
        yield "n > 1"
    if request.HasField("output_format"):
        yield "output_format"
    if choice.function or choice.mode == pb.ToolChoice.MODE_REQUIRED:
        yield "a forced tool_choice"
    if request.include.HasField("prompt_logprobs"):
        yield "include.prompt_logprobs"
    if request.reasoning.exclude:
        yield "reasoning.exclude"
    if request.continuation.text:
        yield "continuation.text"
