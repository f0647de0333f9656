"""How much a call is, before anything has counted it. Knows no queue and no accounts."""

from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.admission.fair_queue import Size
from talkwire_server.engine import Call

BYTES_A_TOKEN = 4  # in English, about; tokenizing would take milliseconds
ANSWER_TOKENS = 1024  # of an answer without max_tokens; most have fewer


def size(request: pb.ChatRequest, context: int) -> Size:
    """Count a request's bytes, and estimate the tokens of its prompt, but for those of media."""
    total = request.ByteSize()
    beside, ids = request.sampling.ByteSize(), len(request.continuation.token_ids)
    if ids:
        beside += request.continuation.ByteSize()
    for message in request.messages:
        for part in message.parts:
            if not part.HasField("text"):
                beside += part.ByteSize()
    return Size(min(ids + (total - beside) // BYTES_A_TOKEN, context), total)


def used(call: Call, model: pb.Model, tokens: int) -> int:
    """Estimate what a call with so many prompt tokens will have used in the end.

    Where the caller sets no `max_tokens` that is not the most that it could have, which is the
    context: a caller with fewer tokens a minute could then have one call at once.
    """
    usual = min(model.default_sampling.max_tokens or ANSWER_TOKENS, ANSWER_TOKENS)
    answer = call.request.sampling.max_tokens or usual
    return tokens + (call.request.n or 1) * min(answer, model.max_context_tokens - tokens)
