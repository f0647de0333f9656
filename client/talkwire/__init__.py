"""talkwire: chat with a vLLM over gRPC.

    from talkwire import Client

    with Client("localhost:50051") as client:
        print(client.chat("What is the capital of France?"))

This package needs grpcio and protobuf, and knows no vLLM.
"""

from talkwire._accumulator import Accumulator
from talkwire._answer import Answer, Chunk, FinishReason, IncompleteOutput, Timing
from talkwire._async import AsyncClient
from talkwire._conversation_async import AsyncConversation
from talkwire._conversation_sync import Conversation
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
from talkwire._media import Audio, Image, Video
from talkwire._messages import MessageLike, PartLike, Query
from talkwire._options import TLS, Retry
from talkwire._output import Choice, Grammar, Regex, StructuralTag
from talkwire._request import (
    CallOptions,
    ChatOptions,
    ChunkingOptions,
    Effort,
    IncludeOptions,
    ReasoningOptions,
    SamplingOptions,
)
from talkwire._stream_async import AsyncStream
from talkwire._stream_sync import Stream
from talkwire._sync import Client
from talkwire._tools import ToolLike

__all__ = [
    "TLS",
    "Accumulator",
    "Answer",
    "AsyncClient",
    "AsyncConversation",
    "AsyncStream",
    "Audio",
    "CallOptions",
    "Cancelled",
    "ChatOptions",
    "Choice",
    "Chunk",
    "ChunkingOptions",
    "Client",
    "ConnectError",
    "ContextLengthExceeded",
    "Conversation",
    "Effort",
    "Error",
    "FinishReason",
    "Grammar",
    "Image",
    "IncludeOptions",
    "IncompleteOutput",
    "InvalidRequest",
    "MediaNotFound",
    "MediaUnreadable",
    "MessageLike",
    "ModelNotFound",
    "Overloaded",
    "PartLike",
    "PermissionDenied",
    "Query",
    "ReasoningOptions",
    "Regex",
    "RequestIdInUse",
    "Retry",
    "SamplingOptions",
    "ServerError",
    "Stream",
    "StructuralTag",
    "Timeout",
    "Timing",
    "ToolLike",
    "Unauthenticated",
    "Unavailable",
    "Unsupported",
    "Video",
    "Violation",
]
