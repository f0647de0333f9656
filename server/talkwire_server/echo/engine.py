"""An engine without a model: says the last user message back, word by word.

It ships so that clients, load tests and users' own CI run anywhere in a second. A token is a word
with the space before it, or a whole medium; its id is its position.

What it says
    The last user message, or a tool's if that is the last of all; for `choice` the first choice.
    `json_object` and `json_schema` want a message that is JSON already; it looks at no schema.
    A medium reads `[image/png 68 bytes]`. The prompt is the conversation, a line a message; there
    is no template, and so nothing that `kwargs` would change.
Thoughts
    Asked for an effort, it thinks the message before it answers.
Tools
    A message `name({"some": "json"})` with the name of a tool is a call of it. Of a call that is
    forced the message is the arguments, if it is a JSON object, else they are `{}`;
    MODE_REQUIRED calls the first tool. It makes one call at most, and looks at no parameters.
Sampling
    Nothing is sampled: each token has log-probability 0, no alternative could have come, and only
    max_tokens, stop and include_stop change the answer. stop_token_ids, bad_words and
    allowed_token_ids are promises that it cannot keep, and are refused.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from itertools import islice
from time import monotonic

from google.protobuf.timestamp_pb2 import Timestamp

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.echo.prompt import logprob, media, prompt
from talkwire_server.echo.script import script
from talkwire_server.echo.support import unsupported
from talkwire_server.engine import Call, Delta, Prompt, Sink, pour
from talkwire_server.errors import (
    MOST_FOUND,
    ContextLengthExceeded,
    ModelNotFound,
    UnsupportedFeature,
)

MAX_CONTEXT_TOKENS = 8192
CAPACITY = 1024  # for the sake of a bound: an answer costs next to nothing


class EchoEngine:
    """Streams one delta a word.

    Args:
        names: The names it serves under.
        default_system: System prompt of requests that bring none; counted, not said.
        delay: Seconds of a step, in which each running answer gains a word.

    """

    def __init__(self, names: Sequence[str], default_system: str, delay: float) -> None:
        loaded = Timestamp()
        loaded.GetCurrentTime()
        self.models: Sequence[pb.Model] = [
            pb.Model(
                id=name,
                max_context_tokens=MAX_CONTEXT_TOKENS,
                tools=True,
                reasoning=True,
                input_modalities=["text", "image", "audio", "video"],
                default_system=default_system,
                load_time=loaded,
            )
            for name in names
        ]
        self.capacity = CAPACITY
        self.unfinished = 0
        self.steps = 0
        self._default_system = default_system
        self._clock = _Clock(delay) if delay else None

    async def launch(self) -> None:
        """Do nothing: there is nothing to load."""

    async def ready(self) -> None:
        """Return at once."""

    async def failed(self) -> str:
        """Wait for ever: it cannot die."""
        return await asyncio.Future[str]()

    async def stop(self) -> None:
        """Do nothing: it has no processes."""

    def unsupported(self, request: pb.ChatRequest) -> Sequence[str]:
        """Name what it does not do."""
        return list(islice(unsupported(request), MOST_FOUND))

    async def render(self, call: Call) -> Prompt:
        """Write the conversation down."""
        tokens = prompt(call.request, self._default_system)
        return Prompt("".join(tokens), range(len(tokens)))

    async def load_adapter(self, id: str, path: str) -> pb.Model:  # noqa: ARG002  # the protocol
        """Refuse: there is nothing to adapt."""
        raise UnsupportedFeature(["adapters"])

    async def unload_adapter(self, id: str) -> None:
        """Refuse: there are none."""
        raise ModelNotFound(id, [])

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Say the last user message back, all answers in step."""
        self.unfinished += 1
        done = 0
        try:
            said, deltas = script(call.request), [Delta() for _ in range(call.request.n or 1)]
            usage = self._open(call, deltas[0])
            end, done = said.end, said.start
            step = self._clock.joined(call) if self._clock else partial(asyncio.sleep, 0)
            for at in range(said.start, len(said.tokens)):
                await step()
                if call.ending:
                    end = Delta(finish_reason=call.ending)
                    break
                done = at + 1
                call.begun = call.begun or monotonic()
                if at < said.hidden:
                    continue
                for index, delta in enumerate(deltas):
                    said.write(at, index, delta, call.id)
                    if not call.final_only:
                        yield delta
                        deltas[index] = Delta()
            usage.completion_tokens = len(deltas) * done
            usage.reasoning_tokens = len(deltas) * min(done, said.thoughts)
            for index, delta in enumerate(deltas):
                delta.index = index
                delta.MergeFrom(end)
                if delta is deltas[-1]:
                    delta.usage.CopyFrom(usage)
                    call.close(delta, first_token=call.begun and call.begun - call.started)
                yield delta
        finally:
            self.unfinished -= 1
            call.used += (call.request.n or 1) * done

    async def feed(self, call: Call, sink: Sink) -> None:
        """Say it to a sink."""
        async with aclosing(self.stream(call)) as deltas:
            await pour(deltas, sink)

    def _open(self, call: Call, delta: Delta) -> pb.Usage:
        """Begin the first delta, and count the prompt."""
        tokens = prompt(call.request, self._default_system)
        if len(tokens) >= MAX_CONTEXT_TOKENS:
            raise ContextLengthExceeded(len(tokens), MAX_CONTEXT_TOKENS)
        call.used = len(tokens)
        delta.CopyFrom(call.first_delta())
        include = call.request.include
        if include.prompt_token_ids:
            delta.prompt_token_ids.extend(range(len(tokens)))
        if include.HasField("prompt_logprobs"):
            delta.prompt_logprobs.add(token=tokens[0])
            delta.prompt_logprobs.extend(logprob(*item) for item in enumerate(tokens[1:], 1))
        return pb.Usage(prompt_tokens=len(tokens), media_tokens=media(call.request))


class _Clock:
    """The steps of an engine: all that run take them together."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: list[asyncio.Future[None]] = []

    def joined(self, call: Call) -> Callable[[], Awaitable[None]]:
        """Return what waits for the next step, or for the end of a call."""
        loop = asyncio.get_running_loop()  # a system call, in Python 3.11
        awake = loop.create_future()

        def wait() -> Awaitable[None]:
            nonlocal awake
            if not call.ending:
                awake = self._next(loop)
            return awake

        call.on_end(lambda: _wake(awake))
        return wait

    def _next(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        if not self._waiting:
            loop.call_later(self._seconds, self._step)
        step = loop.create_future()
        self._waiting.append(step)
        return step

    def _step(self) -> None:
        waiting, self._waiting = self._waiting, []
        for step in waiting:
            _wake(step)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
