"""What both clients are but for their I/O: settings and requests."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, TypeVar, Unpack

from talkwire import _build
from talkwire._answer import Answer
from talkwire._balance import Balancer, Route, session_of
from talkwire._messages import Query
from talkwire._options import SESSION, TLS, Balance, Incoming, Options, Retry, resolve
from talkwire._request import CallOptions, CallSettings, ChatOptions
from talkwire._resume import Course
from talkwire_proto.v1 import chat_pb2 as pb

C = TypeVar("C")  # grpc.Channel or grpc.aio.Channel
R = TypeVar("R", bound=Balancer[Any])


class ClientBase(Generic[C, R]):
    """The settings of a client. Connects at the first call; close it, or use its block.

    Args:
        target: "host:port", "unix:PATH" and what else gRPC knows; default TALKWIRE_TARGET, else
            localhost:50051. "grpcs://host:port" turns TLS on. Several servers are a list of such,
            or have commas between them, or are all addresses of a name: "dns:///host:port". Then
            the client chooses for each call among those whose health says that they serve; what
            one refuses or leaves unheard goes to the others before it is tried again.
        balance: Where among several a call goes that is not `sticky`: "round_robin" (the default),
            "least_requests" (that with the fewest of this client's calls), or "first" (the first
            of the list that serves).
        token: Bearer token, or what returns one; default TALKWIRE_TOKEN.
        tls: Whether, or with which files, to encrypt; default as TALKWIRE_TLS, TALKWIRE_CA_FILE,
            TALKWIRE_CERT_FILE and TALKWIRE_KEY_FILE say, else off.
        timeout: Seconds that a call may take; default TALKWIRE_TIMEOUT, else 600; `math.inf`
            for no limit.
        connect_timeout: Seconds that a call may wait for a connection.
        wait_for_ready: Wait for a connection; else fail at once where there is none.
        retry: How refused calls are tried again; None for never, at no server.
        resume: Whether answers that break off go on by themselves; see `CallOptions`.
        multiplex: Have all streams that run at once share one call, or this many: many answers
            cost both sides far less. What a stream does is the same, but it takes no session id
            along. Each of several servers has a call, or so many, of its own.
        metadata: gRPC metadata of every call.
        max_message_bytes: Largest message sent or taken.
        channel_options: More gRPC channel arguments; they go before the client's own.
        channel: A channel of your own instead of all of the above that makes one.
        defaults: Options of every chat, such as `model`, `system`, `temperature`.

    Attributes:
        options: Those defaults; the caller's own, to be read and changed freely.

    Raises:
        ValueError: A token would travel unencrypted to another machine; a target or `balance` is
            not what it should be.

    """

    _gather: Callable[[Options, C | None], R]

    def __init__(
        self,
        target: str | Sequence[str] | None = None,
        *,
        balance: Balance | None = None,
        token: str | Callable[[], str] | None = None,
        tls: bool | TLS | None = None,
        timeout: float | None = None,
        connect_timeout: float = 10.0,
        wait_for_ready: bool = True,
        retry: Retry | None = Retry(),  # noqa: B008  # frozen
        resume: bool = False,
        multiplex: bool | int = False,
        metadata: Mapping[str, str] | None = None,
        max_message_bytes: int = 64 << 20,
        channel_options: Sequence[tuple[str, Any]] = (),
        channel: C | None = None,
        **defaults: Unpack[ChatOptions],
    ) -> None:
        self._options = resolve(
            target,
            balance=balance,
            token=token,
            tls=tls,
            timeout=timeout,
            connect_timeout=connect_timeout,
            wait_for_ready=wait_for_ready,
            retry=retry,
            multiplex=int(multiplex),
            metadata=metadata or {},
            max_message_bytes=max_message_bytes,
            channel_options=channel_options,
        )
        if channel is not None and self._options.several:
            raise ValueError("a channel is to one target: name none beside it")
        self._replicas = self._gather(self._options, channel)
        self._resume = resume
        self.options = defaults

    @property
    def target(self) -> str:
        """Where the server is, or the servers are."""
        return self._options.target

    def request(self, query: Query = "", /, **options: Unpack[ChatOptions]) -> pb.ChatRequest:
        """Build the request that `chat` would send.

        Raises:
            TypeError: An option is not known; names every such one.
            ValueError: A value does not fit; names every fault.
            ImportError: It takes pydantic, which is not installed.

        """
        return _build.build(query, {**self.options, **options})

    def _split(self, query: Query, options: CallOptions) -> tuple[pb.ChatRequest, CallSettings]:
        return _build.split(query, {**self.options, **options})

    def _count(
        self, query: Query, options: CallOptions, **wanted: bool
    ) -> tuple[pb.CountTokensRequest, dict[str, Any]]:
        request, call = self._split(query, options)
        arguments = self._call(call["timeout"], call["metadata"], call["within"])
        return pb.CountTokensRequest(request=request, **wanted), arguments

    def _resumes(self, resume: bool | None) -> bool:
        return self._resume if resume is None else resume

    def _session(self, request: pb.ChatRequest, sticky: bool | str | None) -> str:
        """Name the session of a call; the empty string if it has none."""
        if not isinstance(sticky, str):
            return session_of(request) if sticky else ""
        if not (sticky.isascii() and sticky.isprintable()):
            msg = f"sticky={sticky!r}: must be printable ASCII, which goes into metadata"
            raise ValueError(msg)
        return sticky

    def _course(
        self,
        request: pb.ChatRequest,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        begun: Answer | None,
        resume: bool | None,
        within: Incoming | None,
        sticky: bool | str | None,
    ) -> Course:
        session = self._session(request, sticky)

        def arguments(trace: Mapping[str, str]) -> dict[str, Any]:
            # Streams of one call go one way, whatever they would tell a proxy.
            told = "" if self._options.multiplex else session
            return self._call(timeout, metadata, within, trace, told)

        route: Route[Any] = Route(self._replicas, session)
        return Course(request, arguments, begun, route, resume=self._resumes(resume))

    def _call(
        self,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        within: Incoming | None = None,
        trace: Mapping[str, str] | None = None,
        session: str = "",
    ) -> dict[str, Any]:
        if session and SESSION not in self._options.metadata:
            metadata = {SESSION: session, **(metadata or {})}
        return {
            "timeout": self._options.call_timeout(timeout, within),
            "metadata": self._options.call_metadata(metadata, within, trace),
        }
