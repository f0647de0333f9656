"""An engine without a model: says the last user message back, word by word.

It ships so that clients, tests and load tests run anywhere in a second. A token is a word with
the space before it; there is nothing to sample, so of `Sampling` only max_tokens, stop
and include_stop change the answer.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from time import monotonic

from google.protobuf.timestamp_pb2 import Timestamp

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.checks import Support, beyond
from talkwire_server.conversation import conversation
from talkwire_server.engine import Call, Delta, Prompt
from talkwire_server.errors import ContextLengthExceeded, ModelNotFound, UnsupportedFeature

MAX_CONTEXT_TOKENS = 8192

_SUPPORTED: Support = {
    "query": {},
    "messages": {"role": {}, "text": {}, "name": {}},
    "system": {},
    "model": {},
    "sampling": {field.name: {} for field in pb.Sampling.DESCRIPTOR.fields},
    "template": {"kwargs": None, "continue_final_message": {}},
    "cache_salt": {},
    "request_id": {},
}

_TOKEN = re.compile(r"\s*\S+|\s+$")


class EchoEngine:
    """Streams one delta a word.

    Args:
        names: The names it serves under.
        default_system: System prompt of requests that bring none; counted, not said.
        delay: Seconds before each word.

    """

    def __init__(self, names: Sequence[str], default_system: str, delay: float) -> None:
        loaded = Timestamp()
        loaded.GetCurrentTime()
        self.models: Sequence[pb.Model] = [
            pb.Model(
                id=name,
                max_context_tokens=MAX_CONTEXT_TOKENS,
                input_modalities=["text"],
                default_system=default_system,
                load_time=loaded,
            )
            for name in names
        ]
        self.unfinished = 0
        self._default_system = default_system
        self._delay = delay

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
        return list(beyond(request, _SUPPORTED))

    async def render(self, call: Call) -> Prompt:
        """Write the conversation down."""
        messages = conversation(call.request, self._default_system)
        text = "".join(f"{message.text}\n" for message in messages)
        return Prompt(text, range(len(_TOKEN.findall(text))))

    async def load_adapter(self, id: str, path: str) -> pb.Model:  # noqa: ARG002  # the protocol
        """Refuse: there is nothing to adapt."""
        raise UnsupportedFeature(["adapters"])

    async def unload_adapter(self, id: str) -> None:
        """Refuse: there are none."""
        raise ModelNotFound(id, [])

    async def stream(self, call: Call) -> AsyncGenerator[Delta]:
        """Say the last user message back."""
        self.unfinished += 1
        try:
            prompt_tokens = self._prompt_tokens(call.request)
            words, end = _plan(call.request)
            first = 0.0
            delta = call.first_delta()
            for word in words:
                await asyncio.sleep(self._delay)
                first = first or monotonic() - call.arrival
                delta.text += word
                if not call.final_only:
                    yield delta
                    delta = Delta()
            delta.MergeFrom(end)
            delta.usage.prompt_tokens = prompt_tokens
            delta.usage.completion_tokens = len(words)
            delta.timing.CopyFrom(call.timing(queue=0, first_token=first))
            yield delta
        finally:
            self.unfinished -= 1

    def _prompt_tokens(self, request: pb.ChatRequest) -> int:
        messages = conversation(request, self._default_system)
        tokens = sum(len(_TOKEN.findall(message.text)) for message in messages)
        if tokens >= MAX_CONTEXT_TOKENS:
            raise ContextLengthExceeded(tokens, MAX_CONTEXT_TOKENS)
        return tokens


def _plan(request: pb.ChatRequest) -> tuple[list[str], Delta]:
    """Return the words to say and how the answer ends."""
    said = [m.text for m in conversation(request, "") if m.role in (pb.ROLE_USER, 0)]
    words = _TOKEN.findall(said[-1]) if said else []
    end = Delta(finish_reason=pb.FINISH_REASON_STOP)
    sampling = request.sampling
    if sampling.HasField("max_tokens") and len(words) > sampling.max_tokens:
        words = words[: sampling.max_tokens]
        end.finish_reason = pb.FINISH_REASON_LENGTH
    text = "".join(words)
    if match := min(((text.find(s), s) for s in sampling.stop if s in text), default=None):
        at, stop = match
        end = Delta(finish_reason=pb.FINISH_REASON_STOP, stop_match=pb.StopMatch(text=stop))
        words = _TOKEN.findall(text[: at + len(stop) if sampling.include_stop else at])
    return words, end
