"""The server's settings: one frozen dataclass of groups. Engine flags stay vLLM's own, unread."""

from dataclasses import dataclass

from talkwire_server.settings.admission import AdmissionSettings
from talkwire_server.settings.flag import Group, out_of_bounds
from talkwire_server.settings.lifetime import LifetimeSettings
from talkwire_server.settings.limits import LimitSettings
from talkwire_server.settings.listening import ListenSettings
from talkwire_server.settings.logs import LogSettings
from talkwire_server.settings.media import MediaSettings
from talkwire_server.settings.metrics import MetricsSettings
from talkwire_server.settings.model import ModelSettings
from talkwire_server.settings.security import SecuritySettings
from talkwire_server.settings.tracing import TracingSettings


@dataclass(frozen=True, kw_only=True)
class Settings(
    ModelSettings,
    MediaSettings,
    AdmissionSettings,
    LimitSettings,
    LifetimeSettings,
    ListenSettings,
    SecuritySettings,
    LogSettings,
    TracingSettings,
    MetricsSettings,
):
    """How to serve."""

    def __post_init__(self) -> None:
        """Refuse what cannot work, every fault at once."""
        faults = [*out_of_bounds(self), *(text for group in GROUPS for text in group.faults(self))]
        if self.exposed and not self.allow_insecure:
            faults.append(f"{self.exposed}; --allow-insecure permits it")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def exposed(self) -> str:
        """What other machines could do that they should not, as a sentence; empty if nothing."""
        missing = [] if self.is_local else [*self.missing()]
        could = f"on --host {self.host} other machines could {' and '.join(missing)}"
        return could if missing else ""


GROUPS: tuple[type[Group], ...] = Settings.__bases__
"""In the order in which the help shows them."""
