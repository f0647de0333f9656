"""Where metrics are read, and whose are told apart."""

from collections.abc import Iterator
from dataclasses import dataclass

from talkwire_server.settings.flag import Group, flag
from talkwire_server.settings.listening import is_loopback

OTHERS = "other"
"""What all callers together are called that have no name of their own in the metrics."""


@dataclass(frozen=True, kw_only=True)
class MetricsSettings(Group):
    """Metrics."""

    metrics_port: int | None = flag(
        None, "serve metrics for Prometheus, by HTTP; 0 takes a free one", at_least=0, at_most=65535
    )
    metrics_host: str = flag("127.0.0.1", "address for that; whoever reaches it may read them")
    metrics_callers: tuple[str, ...] = flag(
        (), "callers with counts of their own; those of all others are together", metavar="NAME"
    )

    def faults(self) -> Iterator[str]:
        """Find what has no use without the port, and a name that is taken."""
        if not self.metrics_host:
            yield "--metrics-host must not be empty"
        if self.metrics_port is None:
            given = {"host": not is_loopback(self.metrics_host), "callers": self.metrics_callers}
            for name in (name for name, is_given in given.items() if is_given):
                yield f"--metrics-{name} needs --metrics-port"
        if OTHERS in self.metrics_callers:
            yield f"--metrics-callers takes no {OTHERS}, which is what all others are called"

    @property
    def observable(self) -> str:
        """What other machines can see of this server, as a sentence; empty if nothing."""
        if self.metrics_port is None or is_loopback(self.metrics_host):
            return ""
        return f"on --metrics-host {self.metrics_host} other machines can read the metrics"
