"""An answer that is read piece by piece, blocking; `_stream_async.py` is its twin."""

from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

import grpc

from talkwire._answer import Answer, Chunk
from talkwire._errors import OUTSIDE_WITH, Error, RequestIdInUse
from talkwire._options import Incoming
from talkwire._output import Reader
from talkwire._resume import Course
from talkwire._statuses import from_cancel
from talkwire._stream import StreamBase
from talkwire_proto.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    from talkwire._replica_sync import Replica
    from talkwire._sync import Client


class Stream(StreamBase, Iterator[Chunk]):
    """An answer as it is generated.

    The call starts where the `with` block is entered, which raises `Error` if it is refused.
    Wherever and however the block is left before the end, the call is cancelled on the server.

        with client.stream("Tell me a story.") as stream:
            for chunk in stream:
                print(chunk, end="", flush=True)
    """

    def __init__(
        self, client: "Client", course: Course, reader: Reader, within: Incoming | None
    ) -> None:
        super().__init__(course, reader, within)
        self._client = client
        self._replica: Replica  # that has the call

    def wait(self) -> Answer:
        """Read to the end; return the whole answer."""
        for _ in self:
            pass
        return self.answer

    def stop(self) -> Answer:
        """Have the server end the answer where it is; return it, "aborted", with its usage.

        For whoever reads the stream; others call `client.abort(stream.id)`.
        """
        self._course.resume = False
        pieces = 0
        while self.id and not self._client.abort(self.id):
            # It has ended, or is at another server than was asked: read on a little, and ask again.
            pieces += 1
            for _ in range(pieces):
                if next(self, None) is None:
                    return self.answer
        return self.wait()

    def __enter__(self) -> Self:
        try:
            self._begin(self._client._options)
            self._bind()
            self._start()
            if not self._admitted(self._call.initial_metadata()):
                self._keep(next(self, None))
        except BaseException as error:
            self._leave(error)  # no block is entered that would do it
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave(GeneratorExit())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        if self._call is None:
            raise RuntimeError(OUTSIDE_WITH.format("with"))
        if chunk := self._ahead:
            self._ahead = None
            return chunk
        try:
            try:
                delta = next(self._call)
            except StopIteration:
                self._course.route.end()
                raise
            except grpc.RpcError as error:
                delta = self._go_on(self._failed(error))
        except (StopIteration, Error) as end:
            self._end(end)
            raise
        self._answer.add(delta)
        return Chunk(delta)

    def _start(self) -> None:
        course = self._course
        self._replica, call = self._client._replicas.connect(
            course.route, course.arguments(), self.answer, self._hold
        )
        with self._client._closing(self.answer):
            self._call = self._replica.chat_stream(course.request, **call)
        self._hold(self._call)

    def _go_on(self, error: Error) -> pb.ChatStreamResponse:
        """Read on in another call. Raises the error where none may follow."""
        if self._lost_nothing(error):
            raise StopIteration
        while True:
            pause = self._course.follow(error, self.id, self.answer)
            try:
                if isinstance(error, RequestIdInUse):  # the call that broke off
                    abort = pb.AbortRequest(id=self._course.request.request_id)
                    with self._client._closing(self.answer):
                        self._replica.stub.Abort(abort, **self._course.arguments())
                if self._cancelled.wait(pause):
                    raise from_cancel(self._client.target, self.answer)
                self._start()
                delta: pb.ChatStreamResponse = next(self._call)
            except grpc.RpcError as cause:
                error = self._failed(cause)
            except Error as none:  # no connection
                error = none
            else:
                self.resumed += bool(self.id)
                return delta

    def _failed(self, cause: grpc.RpcError) -> Error:
        if self._cancelled.is_set():
            return from_cancel(self._client.target, self.answer)
        return self._client._error(cause, self._replica, self.answer)
