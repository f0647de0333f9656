"""Where the server listens."""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from talkwire_server.settings.flag import MOST, Group, flag


@dataclass(frozen=True, kw_only=True)
class ListenSettings(Group):
    """Server."""

    host: str = flag("127.0.0.1", "address, or unix:PATH")
    port: int = flag(50051, "0 takes a free one", at_least=0, at_most=65535)
    frontends: int = flag(
        1,
        "processes that serve the port, on one engine; each is a core of Python",
        at_least=1,
        at_most=256,
        metavar="N",
    )
    admin_port: int | None = flag(
        None, "serve the AdminService on 127.0.0.1", at_least=0, at_most=65535
    )
    max_message_bytes: int = flag(16 << 20, "largest request", at_least=1, at_most=MOST)
    max_concurrent_streams: int | None = flag(
        None,
        "calls of one connection (default: twice those that may run and wait, 1000 at least); of "
        "more, clients have the others wait",
        at_least=1,
        at_most=MOST,
    )
    max_slow_calls: int = flag(
        64, "calls whose request or answer takes more than a second to arrive", at_least=1
    )
    reflection: bool = flag(True, "serve gRPC reflection")
    channelz: bool = flag(False, "serve channelz, the live statistics of channels")
    stop_on_eof: bool = flag(False, "stop, too, when standard input ends")

    def faults(self) -> Iterator[str]:
        """Find a host that is none, and what several processes cannot share."""
        if not self.host:
            yield "--host must not be empty"
        if self.frontends > 1:
            if self.host.startswith("unix:"):
                yield "--frontends takes no --host unix:PATH, which one process alone can serve"
            if self.admin_port is not None:
                yield "--frontends takes no --admin-port: the adapters of one only would change"

    @property
    def is_local(self) -> bool:
        """Whether this machine alone reaches the host."""
        return self.host.startswith("unix:") or is_loopback(self.host)

    def address(self, port: int) -> str:
        """Where to listen, or at another port, as gRPC spells it."""
        if self.host.startswith("unix:"):
            return self.host
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


def is_loopback(host: str) -> bool:
    """Tell whether this machine alone reaches a host."""
    if host in ("", "localhost"):  # "" is refused
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False
