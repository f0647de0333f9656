"""What both streams are but for their I/O: the answer so far, and its end. Reads nothing."""

from threading import Event
from typing import Any

import grpc

from talkwire._accumulator import Accumulator
from talkwire._answer import Answer, Chunk
from talkwire._errors import Error, Unavailable
from talkwire._options import Incoming, Options
from talkwire._output import Reader
from talkwire._resume import Course
from talkwire._spans import NONE, begin


class StreamBase:
    """An answer that comes in pieces.

    Attributes:
        id: The request's id, known from where the block is entered on.
        resumed: How often the answer broke off and went on, with `resume`. Its `timing` is that of
            the last call, all else of the whole.

    """

    def __init__(self, course: Course, reader: Reader, within: Incoming | None) -> None:
        self.id = ""
        self.resumed = 0
        self._course = course
        self._within = within
        self._call: Any = None  # grpc's, once the block is entered
        self._held: Any = None  # that, or what is waited for before it
        self._ahead: Chunk | None = None  # was read to enter the block
        self._cancelled = Event()
        self._span = NONE
        self._reader = reader
        self._answer = Accumulator(course.begun.proto if course.begun else None)

    @property
    def answer(self) -> Answer:
        """The answer as far as it came, with what it goes on with; see `Answer.complete`."""
        return Answer(self._answer.response, self._reader.whole)

    @property
    def parsed_so_far(self) -> Any:
        """What can be read of the JSON that `output` asked for, as far as it came, as plain values.

        None where nothing can be read; where `output` asked for no JSON, the text.

        Raises:
            ImportError: pydantic is not installed.

        """
        return self._reader.partial(self._answer.text)

    def cancel(self) -> None:
        """Stop the answer on the server; from any thread or task. Reading on raises `Cancelled`."""
        self._cancelled.set()
        if self._held is not None:
            self._held.cancel()

    def _begin(self, options: Options) -> None:
        """Begin the span, and have the calls be part of it."""
        self._span = begin(options, self._course.request, self._within, streams=True)
        self._course.trace = self._span.headers

    def _end(self, why: BaseException) -> None:
        """End the span, if it has not ended."""
        is_over = isinstance(why, StopIteration | StopAsyncIteration)
        self._span.end(lambda: self._answer.response, None if is_over else why)

    def _leave(self, why: BaseException) -> None:
        """Have nothing run on, at no server."""
        self.cancel()
        self._course.route.leave()
        self._end(why)

    def _bind(self) -> None:
        """Have the end of the incoming call cancel this one, now if it has ended."""
        ended = False
        if isinstance(self._within, grpc.ServicerContext):
            ended = not self._within.add_callback(self.cancel)
        elif self._within:
            self._within.add_done_callback(lambda _: self.cancel())  # type: ignore[arg-type]  # stub
            ended = self._within.done()
        if ended:
            self.cancel()

    def _hold(self, held: Any) -> None:
        """Have `cancel` end this: a call, or the wait for one."""
        self._held = held
        if self._cancelled.is_set():  # in between
            held.cancel()

    def _admitted(self, metadata: Any) -> bool:
        """Tell whether the server has taken the call; if not, reading raises why."""
        self.id = dict(metadata).get("x-request-id", "")
        return bool(self.id)

    def _lost_nothing(self, error: Error) -> bool:
        """Tell whether all but the status had come when the connection was lost."""
        return isinstance(error, Unavailable) and self.answer.complete

    def _keep(self, chunk: Chunk | None) -> None:
        """Keep what came without an admission: a proxy may hold the metadata back."""
        self._ahead = chunk
        self.id = self.answer.id
