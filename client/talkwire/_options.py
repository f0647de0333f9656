"""How a client reaches its server: target, TLS, token, deadlines, retries. Makes no connection."""

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args
from uuid import uuid4

import grpc

Incoming: TypeAlias = grpc.ServicerContext | grpc.aio.ServicerContext[Any, Any]
"""The context of a handler that calls on."""

Balance: TypeAlias = Literal["round_robin", "least_requests", "first"]
"""Which of several servers gets a call of no session; see `ClientBase`."""

DNS = "dns:///"
SESSION = "session_id"
"""The metadata that a proxy may keep a session at one server by: Envoy, HAProxy, Ray Serve."""

TRACE = ("traceparent", "tracestate")
_FOREVER = 1e9  # seconds; a handler in a thread has 9e18 left where there is no deadline


@dataclass(frozen=True, slots=True)
class TLS:
    """Certificate files, PEM. `ca_file` unset trusts what the system trusts.

    `cert_file` and `key_file` are this client's own, for servers that ask for one.
    """

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files."""
        ca, key, cert = (
            Path(file).read_bytes() if file else None
            for file in (self.ca_file, self.key_file, self.cert_file)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)


@dataclass(frozen=True, slots=True)
class Retry:
    """How often gRPC itself tries again, and how long it waits in between, in seconds.

    Only calls that the server has refused or never saw are tried again, never one that has begun
    to answer. A server's own wish for the delay goes first. `attempts` counts the first one; gRPC
    makes at most five, and one alone while far more than a tenth of all fail. What a leaving server
    never saw is tried as often elsewhere, at once.
    """

    attempts: int = 4
    initial: float = 0.1
    maximum: float = 5.0

    def __post_init__(self) -> None:
        """Refuse what gRPC would not take."""
        # After a delay that is rounded to 0 ms gRPC hangs for ever (grpc#41036).
        if self.attempts < 1 or not 0.01 <= self.initial <= self.maximum:
            msg = f"{self}: attempts must be >= 1, and 0.01 <= initial <= maximum"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about a client's channel. Build it with `resolve`, which reads the environment."""

    target: str
    balance: Balance | None = None
    token: str | Callable[[], str] | None = None
    tls: TLS | None = None
    timeout: float = 600.0
    connect_timeout: float = 10.0
    wait_for_ready: bool = True
    retry: Retry | None = field(default_factory=Retry)
    multiplex: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)
    max_message_bytes: int = 64 << 20
    channel_options: Sequence[tuple[str, Any]] = ()

    def __post_init__(self) -> None:
        """Refuse a policy where there is nothing to choose from."""
        if self.balance not in (None, *get_args(Balance)):
            msg = f"balance={self.balance!r}: must be one of {', '.join(get_args(Balance))}"
            raise ValueError(msg)
        if self.balance and not self.several:
            msg = f"balance={self.balance!r}: {self.target} is one server; name several, or dns:///"
            raise ValueError(msg)
        if self.name:
            host_port(self.name)

    @property
    def several(self) -> bool:
        """Whether the client chooses among servers; of one target gRPC does."""
        return bool(self.name) or len(self.addresses) > 1

    @property
    def name(self) -> str:
        """The name, HOST:PORT, whose addresses are servers; empty where they are given."""
        return self.target.removeprefix(DNS) if self.target.startswith(DNS) else ""

    @property
    def addresses(self) -> list[str]:
        """The targets of the servers, as gRPC wants each; none where a name stands for them."""
        return [] if self.name else split(self.target)

    def call_metadata(
        self,
        more: Mapping[str, str] | None,
        within: Incoming | None = None,
        trace: Mapping[str, str] | None = None,
    ) -> list[tuple[str, str | bytes]]:
        """Metadata of one call; the token is asked for anew each time.

        Its trace is that of its own span, if it has one, else that of the incoming call.

        Each call has an id of its own: gRPC's tries have the same, so no two run at once.
        """
        token = self.token() if callable(self.token) else self.token
        made: dict[str, str | bytes] = {"x-request-id": uuid4().hex}
        if token:
            made["authorization"] = f"Bearer {token}"
        made |= self.metadata
        made |= trace or trace_of(within)
        return list((made | dict(more or {})).items())

    def call_timeout(self, timeout: float | None, within: Incoming | None = None) -> float | None:
        """Seconds that one call may take, as gRPC wants it: None for no limit."""
        seconds = self.timeout if timeout is None else timeout
        if within and (left := within.time_remaining()) is not None:
            seconds = min(seconds, left)
        return seconds if seconds < _FOREVER else None

    def watch(self) -> dict[str, Any]:
        """Return the arguments of a call that has no end; other calls tell that no token is had."""
        try:
            metadata = self.call_metadata(None)
        except Exception:
            metadata = [*self.metadata.items()]
        return {"timeout": None, "metadata": metadata}

    def connect_wait(self, timeout: float | None) -> float:
        """Seconds of a call's time, as gRPC wants it, that may go by without a connection."""
        return self.connect_timeout if timeout is None else min(self.connect_timeout, timeout)

    def channel_arguments(self, address: str, *, anew: bool = False) -> list[tuple[str, Any]]:
        """Return the channel arguments of gRPC; `anew` for one more connection to the address."""
        from importlib.metadata import version  # takes a tenth of `import talkwire`

        arguments = [
            ("grpc.primary_user_agent", f"talkwire-python/{version('talkwire')}"),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.per_rpc_retry_buffer_size", self.max_message_bytes),
            # Find a dead connection during a long wait. gRPC sends at most two pings that no data
            # answers, which is what any server puts up with: none says too_many_pings.
            ("grpc.keepalive_time_ms", 30_000),
            ("grpc.keepalive_timeout_ms", 10_000),
            # A server that starts is found within a second or two, not after a minute.
            ("grpc.initial_reconnect_backoff_ms", 200),
            ("grpc.max_reconnect_backoff_ms", 2_000),
            ("grpc.service_config", json.dumps(self._service_config())),
        ]
        if self.name:  # which certificates are for, and not its addresses
            arguments.append(("grpc.default_authority", self.name))
        if _is_local(address):
            arguments.append(("grpc.enable_http_proxy", 0))
        if anew:
            # Not the other channels', and closed when no stream has needed it for a while.
            arguments += [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.client_idle_timeout_ms", 10_000),
            ]
        given = {name for name, _ in self.channel_options}  # of two gRPC takes the first
        return [*(one for one in arguments if one[0] not in given), *self.channel_options]

    def _service_config(self) -> dict[str, Any]:
        if not self.retry or self.retry.attempts == 1 or self.several:  # where others may take it
            return {}
        policy = {
            "maxAttempts": self.retry.attempts,
            "initialBackoff": f"{self.retry.initial:.6f}s",
            "maxBackoff": f"{self.retry.maximum:.6f}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
        }
        services = [{"service": f"talkwire.v1.{name}Service"} for name in ("Chat", "Model")]
        return {
            "methodConfig": [{"name": services, "retryPolicy": policy}],
            # The budget: each failure takes 1 and each success gives 0.1; half of it must be left.
            "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
        }


def trace_of(within: Incoming | None) -> dict[str, str | bytes]:
    """Return what an incoming call says of its trace."""
    metadata = (within and within.invocation_metadata()) or ()
    return {key: value for key, value in metadata if key in TRACE}


def less(call: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Take seconds that went by off a call's timeout."""
    timeout = call["timeout"]
    return call if timeout is None else {**call, "timeout": max(0.0, timeout - seconds)}


_NO = ("0", "no", "off", "false")


def resolve(
    target: str | Sequence[str] | None,
    *,
    token: str | Callable[[], str] | None,
    tls: bool | TLS | None,
    timeout: float | None,
    **others: Any,
) -> Options:
    """Fill in from the environment what was not given; what was given wins.

    Reads TALKWIRE_TARGET, _TOKEN, _TIMEOUT, _TLS, _CA_FILE, _CERT_FILE and _KEY_FILE.

    Raises:
        ValueError: A token would travel in the clear to another machine, or the targets are not
            what they should be.

    """
    env = {k.removeprefix("TALKWIRE_"): v for k, v in os.environ.items() if v}
    if target is None or target == "":
        target = env.get("TARGET") or "localhost:50051"
    target = _joined(target)
    token = token or env.get("TOKEN")
    files = TLS(env.get("CA_FILE"), env.get("CERT_FILE"), env.get("KEY_FILE"))
    if tls is None:
        tls = files != TLS() or "grpcs://" in target or env.get("TLS", "0").lower() not in _NO
    if not isinstance(tls, TLS):
        tls = files if tls else None
    target = re.sub(r"(^|,)grpcs?://", r"\1", target)
    if token and not tls and not _is_local(target):
        msg = f"a token for {target} would travel in the clear: use tls=True"
        raise ValueError(msg)
    if timeout is None:
        timeout = float(env.get("TIMEOUT", 600))
    return Options(target=target, token=token, tls=tls, timeout=timeout, **others)


def split(target: str) -> list[str]:
    """Return the servers that a target names, with commas between them; "ipv4:" is of all."""
    scheme = next((one for one in ("ipv4:", "ipv6:") if target.startswith(one)), "")
    return [scheme + one for one in target.removeprefix(scheme).split(",")]


def host_port(name: str) -> tuple[str, int]:
    """Take a name apart.

    Raises:
        ValueError: It has no port.

    """
    host, _, port = name.rpartition(":")
    if not host or not port.isdigit():
        msg = f"{name!r}: must be host:port"
        raise ValueError(msg)
    return host, int(port)


def _joined(target: str | Sequence[str]) -> str:
    """Write targets as one. Raises ValueError where each is not one server."""
    given = [target] if isinstance(target, str) else [*target]
    listed = split(target) if isinstance(target, str) else given
    faults = [
        *(f"{one!r} is not one server" for one in listed if not one or "," in one),
        *(f"{one!r} is there twice" for one in {*listed} if listed.count(one) > 1),
        *(f"{one!r} must be alone" for one in listed if one.startswith(DNS) and len(listed) > 1),
        *(["there is none"] if not listed else ()),
    ]
    if faults:
        msg = f"target={target!r}: {', '.join(faults)}"
        raise ValueError(msg)
    return ",".join(given)


def _is_local(target: str) -> bool:
    """Tell whether all that a target names is this machine."""
    return all(
        one.startswith("unix:") or _is_loopback(re.sub("^(dns:///|ipv[46]:)", "", one))
        for one in split(target)
    )


def _is_loopback(address: str) -> bool:
    host = re.sub(r":\d+$", "", address).strip("[]")
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # another name
        return False
