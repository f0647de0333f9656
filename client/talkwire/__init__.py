"""talkwire: chat with a vLLM over gRPC.

    from talkwire import Client

    with Client("localhost:50051") as client:
        print(client.chat("What is the capital of France?"))

This package needs grpcio and protobuf, and knows no vLLM.
"""

from talkwire._accumulator import Accumulator
from talkwire._answer import Answer, Chunk, FinishReason, Timing
from talkwire._async import AsyncClient, AsyncConversation, AsyncStream
from talkwire._errors import (
    Cancelled,
    ConnectError,
    ContextLengthExceeded,
    Error,
    InvalidRequest,
    MediaNotFound,
    MediaUnreadable,
    ModelNotFound,
    Overloaded,
    PermissionDenied,
    RequestIdInUse,
    ServerError,
    Timeout,
    Unauthenticated,
    Unavailable,
    Unsupported,
    Violation,
)
from talkwire._options import TLS, Retry
from talkwire._request import CallOptions, ChatOptions, MessageLike, SamplingOptions
from talkwire._sync import Client, Conversation, Stream

__all__ = [
    "TLS",
    "Accumulator",
    "Answer",
    "AsyncClient",
    "AsyncConversation",
    "AsyncStream",
    "CallOptions",
    "Cancelled",
    "ChatOptions",
    "Chunk",
    "Client",
    "ConnectError",
    "ContextLengthExceeded",
    "Conversation",
    "Error",
    "FinishReason",
    "InvalidRequest",
    "MediaNotFound",
    "MediaUnreadable",
    "MessageLike",
    "ModelNotFound",
    "Overloaded",
    "PermissionDenied",
    "RequestIdInUse",
    "Retry",
    "SamplingOptions",
    "ServerError",
    "Stream",
    "Timeout",
    "Timing",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Violation",
]
