"""Where traces go. OpenTelemetry's own variables say so, not flags."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from talkwire_server.settings.flag import Group

_OTLP = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


@dataclass(frozen=True, kw_only=True)
class TracingSettings(Group):
    """Tracing.

    Attributes:
        trace_exporters: OpenTelemetry's names of them; none: no traces.

    """

    trace_exporters: tuple[str, ...] = ()

    def faults(self) -> Iterator[str]:
        """Name the exporters that are not installed."""
        for name in self.trace_exporters:
            if not found(name):
                yield (
                    f"OpenTelemetry's variables want traces, but its exporter {name} is not "
                    "installed: pip install 'talkwire[otel]', or set OTEL_SDK_DISABLED=true"
                )


def trace_exporters(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Read OpenTelemetry's variables: without an endpoint or an exporter there are no traces.

    Source: https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/.
    """
    said = {key: value.strip() for key, value in environ.items() if value.strip()}
    names = said.get("OTEL_TRACES_EXPORTER", "otlp" if any(map(said.get, _ENDPOINTS)) else "none")
    if said.get("OTEL_SDK_DISABLED", "").lower() == "true" or names == "none":
        return ()
    protocol = next(filter(None, map(said.get, _PROTOCOLS)), "grpc")
    otlp = _OTLP.get(protocol, f"otlp by {protocol}")
    return tuple(otlp if name == "otlp" else name for name in map(str.strip, names.split(",")))


def found(name: str) -> EntryPoint | None:
    """Find an exporter where it is installed, without importing it."""
    return next(iter(entry_points(group="opentelemetry_traces_exporter", name=name)), None)
