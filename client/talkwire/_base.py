"""What both clients and both streams are but for their I/O: settings, requests, answers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from talkwire import _request
from talkwire._accumulator import Accumulator
from talkwire._answer import Answer
from talkwire._options import TLS, Retry, resolve
from talkwire._request import CallOptions, CallSettings, ChatOptions
from talkwire_proto.v1 import chat_pb2 as pb

C = TypeVar("C")  # grpc.Channel or grpc.aio.Channel


class ClientBase(Generic[C]):
    """The settings of a client. Connects at the first call; close it, or use its block.

    Args:
        target: "host:port", "dns:///...", "unix:PATH"; default TALKWIRE_TARGET, else
            localhost:50051. "grpcs://host:port" turns TLS on.
        token: Bearer token, or what returns one; default TALKWIRE_TOKEN.
        tls: Whether, or with which files, to encrypt; default as TALKWIRE_TLS, TALKWIRE_CA_FILE,
            TALKWIRE_CERT_FILE and TALKWIRE_KEY_FILE say, else off.
        timeout: Seconds that a call may take; default TALKWIRE_TIMEOUT, else 600; `math.inf`
            for no limit.
        connect_timeout: Seconds that a call may wait for a connection.
        wait_for_ready: Wait for a connection; else fail at once where there is none.
        retry: How refused calls are tried again; None for never.
        metadata: gRPC metadata of every call.
        max_message_bytes: Largest message sent or taken.
        channel_options: More gRPC channel arguments.
        channel: A channel of your own instead of all of the above that makes one.
        defaults: Options of every chat, such as `model`, `system`, `temperature`.

    Raises:
        ValueError: A token would travel unencrypted to another machine.

    """

    def __init__(
        self,
        target: str | None = None,
        *,
        token: str | Callable[[], str] | None = None,
        tls: bool | TLS | None = None,
        timeout: float | None = None,
        connect_timeout: float = 10.0,
        wait_for_ready: bool = True,
        retry: Retry | None = Retry(),  # noqa: B008  # frozen
        metadata: Mapping[str, str] | None = None,
        max_message_bytes: int = 64 << 20,
        channel_options: Sequence[tuple[str, Any]] = (),
        channel: C | None = None,
        **defaults: Unpack[ChatOptions],
    ) -> None:
        self._options = resolve(
            target,
            token=token,
            tls=tls,
            timeout=timeout,
            connect_timeout=connect_timeout,
            wait_for_ready=wait_for_ready,
            retry=retry,
            metadata=metadata or {},
            max_message_bytes=max_message_bytes,
            channel_options=channel_options,
        )
        self._channel = channel
        self._defaults = defaults

    @property
    def target(self) -> str:
        """Where the server is."""
        return self._options.target

    def request(self, query: str = "", /, **options: Unpack[ChatOptions]) -> pb.ChatRequest:
        """Build the request that `chat` would send."""
        return _request.build(query, {**self._defaults, **options})

    def _split(self, query: str, options: CallOptions) -> tuple[pb.ChatRequest, CallSettings]:
        return _request.split(query, {**self._defaults, **options})

    def _call(
        self, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        return {
            "timeout": self._options.call_timeout(timeout),
            "metadata": self._options.call_metadata(metadata),
        }


class StreamBase:
    """An answer that comes in pieces."""

    def __init__(self) -> None:
        self._call: Any = None  # grpc's, once the block is entered
        self._answer = Accumulator()

    @property
    def answer(self) -> Answer:
        """The answer as far as it came; see `Answer.complete`."""
        return Answer(self._answer.response)

    @property
    def id(self) -> str:
        """The request's id; empty before the first chunk."""
        return self._answer.id

    def cancel(self) -> None:
        """Stop the answer on the server; from any thread or task. Reading on raises `Cancelled`."""
        if self._call is not None:
            self._call.cancel()


def less(call: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Take seconds that went by off a call's timeout."""
    timeout = call["timeout"]
    return call if timeout is None else {**call, "timeout": max(0.0, timeout - seconds)}
