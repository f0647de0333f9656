"""What the service asks of an engine. Knows no vLLM, no sockets and no statuses."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Protocol, TypeAlias

from google.protobuf.duration_pb2 import Duration

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.trace_context import TraceContext

Delta: TypeAlias = pb.ChatStreamResponse
"""One increment of an answer: the wire's own message, so that nothing is converted per token."""


@dataclass(slots=True, eq=False)
class Call:
    """One admitted request.

    Attributes:
        id: The request's id; unique among the running calls.
        model: Id of the model that answers.
        request: What was asked; its fields are checked.
        final_only: Ask for the whole answer in one delta (unary `Chat`).
        arrival: When it came, in `time.monotonic` seconds.
        trace: What the engine may tell whoever collects its spans.
        places: How many of the server's places it holds; 0 while it waits for them.
        waited: Seconds from its arrival until it held them.
        used: Tokens of prompt and answers that the engine saw, set when its stream ends, however it
            ends; 0 where it was refused before it ran.
        ending: Why the answer shall end before its own end; 0 while it shall not.
        begun: When something of the answer was there first, in `time.monotonic` seconds; 0 before.
        last: The last delta of the answer, with `usage` and `timing`, once there is one.

    """

    id: str
    model: str
    request: pb.ChatRequest
    final_only: bool = False
    arrival: float = field(default_factory=monotonic)
    trace: TraceContext = field(default_factory=dict, init=False)
    places: int = field(default=0, init=False)
    waited: float = field(default=0.0, init=False)
    used: int = field(default=0, init=False)
    ending: pb.FinishReason.ValueType = field(default=pb.FINISH_REASON_UNSPECIFIED, init=False)
    begun: float = field(default=0.0, init=False)
    last: Delta | None = field(default=None, init=False)
    _on_end: Callable[[], object] = field(default=lambda: None, init=False)

    @property
    def started(self) -> float:
        """When it held its places."""
        return self.arrival + self.waited

    def end(self, reason: pb.FinishReason.ValueType) -> None:
        """Have the engine finish the answer where it is. Of several reasons the first stays."""
        if not self.ending:
            self.ending = reason
            self._on_end()

    def on_end(self, stop: Callable[[], object]) -> None:
        """Set how the engine stops generating; called at once if `end` was already."""
        self._on_end = stop
        if self.ending:
            stop()

    def first_delta(self) -> Delta:
        """Open the answer: `id` and `model` go into its first delta, and only there."""
        return pb.ChatStreamResponse(id=self.id, model=self.model)

    def close(self, delta: Delta, queue: float = 0.0, first_token: float = 0.0) -> None:
        """Close the answer with its last delta, which has its usage: say what it took up to now.

        What the engine gives, in seconds, is counted from when the call `started`; no first token:
        there was none. On the wire it is counted from `arrival`.
        """
        delta.timing.CopyFrom(
            pb.Timing(
                queue=duration(self.waited + queue),
                first_token=duration(first_token and self.waited + first_token),
                total=duration(monotonic() - self.arrival),
            )
        )
        self.last = delta

    async def unbegun(self) -> AsyncGenerator[Delta]:
        """Answer a call that was ended before anything was generated: there is nothing."""
        answers = range(self.request.n or 1)
        deltas = [pb.ChatStreamResponse(index=i, finish_reason=self.ending) for i in answers]
        deltas[0].MergeFrom(self.first_delta())
        deltas[-1].usage.SetInParent()
        self.close(deltas[-1])
        for delta in deltas:
            yield delta


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model sees of a request: its text and the ids of its tokens."""

    text: str
    token_ids: Sequence[int]


class Sink(Protocol):
    """Where deltas go that nobody awaits one by one."""

    def takes(self) -> bool:
        """Tell whether the next delta may be given now."""
        ...

    def give(self, delta: Delta) -> None:
        """Take a delta."""
        ...

    def on_room(self, call_back: Callable[[], object]) -> None:
        """Call back once, when the next delta may be given."""
        ...

    async def room(self) -> None:
        """Return when the next delta may be given."""
        ...


class Engine(Protocol):
    """Something that answers chats.

    Its life: `launch`, then `ready` while the server already listens, then any number of
    `stream`s, then `stop`; then it may be launched again. `failed` may be awaited from `launch` on.
    """

    @property
    def models(self) -> Sequence[pb.Model]:
        """The models it serves, the default one first. Adapters come and go."""
        ...

    @property
    def capacity(self) -> int:
        """How many answers it generates at once."""
        ...

    @property
    def unfinished(self) -> int:
        """How many requests it is working on."""
        ...

    @property
    def steps(self) -> int:
        """How many steps it has made, as far as this process hears of them."""
        ...

    async def launch(self) -> None:
        """Start loading, up to where a listening socket does no harm (processes are forked)."""
        ...

    async def ready(self) -> None:
        """Return when `stream` may be called. Raises `StartError` when it never will."""
        ...

    def unsupported(self, request: pb.ChatRequest) -> Sequence[str]:
        """Name what the request uses and this engine or its model lacks."""
        ...

    def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Answer a call, delta by delta; the last delta of the answer has `usage` and `timing`.

        After `call.end` it finishes soon, with that reason and what there is. Closing the
        generator aborts the request. Raises `CallError`s only.
        """
        ...

    async def feed(self, call: Call, sink: Sink) -> None:
        """Answer a call as `stream` does, but give each delta to a sink, maybe with no task woken.

        Being cancelled aborts the request. Raises `CallError`s only.
        """
        ...

    async def render(self, call: Call) -> Prompt:
        """Make the prompt of a call without running it. Raises `CallError`s only."""
        ...

    async def load_adapter(self, id: str, path: str) -> pb.Model:
        """Serve a LoRA adapter of the base model under an id. Raises `CallError`s only."""
        ...

    async def unload_adapter(self, id: str) -> None:
        """Serve an adapter no more; calls that run on it go on. Raises `CallError`s only."""
        ...

    async def failed(self) -> str:
        """Return the reason when the engine has died; wait as long as it lives."""
        ...

    async def stop(self) -> None:
        """End the engine and its processes, whatever state it is in. Idempotent."""
        ...


class Core(Protocol):
    """What the engines of several processes share.

    Its life: `launch`, then the engines of its seats are launched, too, each in a process of its
    own, then `ready`, then `stop`; then it may be launched again. `failed` as with `Engine`.
    """

    @property
    def capacity(self) -> int:
        """How many answers all of them generate at once."""
        ...

    @property
    def environment(self) -> Mapping[str, str]:
        """What their processes need in the environment; known from `launch` on."""
        ...

    def seat(self, number: int, models: Sequence[pb.Model]) -> Callable[[], Engine]:
        """Return what makes one of the engines, there. `models` are those of others that run."""
        ...

    def feel(self, number: int, unfinished: int, steps: int) -> None:
        """Hear from one of the engines, about once a second."""
        ...

    async def launch(self) -> None:
        """Start what they share."""
        ...

    async def ready(self) -> None:
        """Return when it has loaded. Raises `StartError` when it never will."""
        ...

    async def failed(self) -> str:
        """Return the reason when it has died; wait as long as it lives."""
        ...

    async def stop(self) -> None:
        """End it and its processes, whatever state it is in. Idempotent."""
        ...


class StartError(Exception):
    """Engine or server cannot start. The message is one line for the operator."""


async def pour(deltas: AsyncIterator[Delta], sink: Sink) -> None:
    """Give deltas to a sink as they come."""
    async for delta in deltas:
        while not sink.takes():
            await sink.room()
        sink.give(delta)


def duration(seconds: float) -> Duration:
    """Convert seconds to protobuf's Duration, to the microsecond; never negative."""
    whole, micros = divmod(max(0, round(seconds * 1_000_000)), 1_000_000)
    return Duration(seconds=whole, nanos=micros * 1000)
