"""Reads what shall be deployed from a file: the flags of `talkwire serve`, and the key `ray`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from talkwire_server import options, vllm_engine
from talkwire_server.engine import StartError
from talkwire_server.ray_serve.replicas import Replicas, workers
from talkwire_server.settings import Settings

T = TypeVar("T")

_TLS = "Serve's HAProxy speaks none: end TLS before it"
_ARRIVAL = "HAProxy, not a replica, takes connections and requests in"
_ELSEWHERE: Mapping[str, str] = {
    "admin_port": "it would change the adapters of one replica: use lora_modules",
    "channelz": "Serve has no such service",
    "frontends": "use ray.num_replicas",
    "handshake_timeout": _ARRIVAL,
    "lame_duck": "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S is it",
    "max_concurrent_streams": "RAY_SERVE_HAPROXY_H2_FE_MAX_CONCURRENT_STREAMS is it",
    "max_metadata_bytes": _ARRIVAL,
    "max_slow_calls": _ARRIVAL,
    "request_timeout": _ARRIVAL,
    "restart_engine": "a replica ends with its engine, and Serve starts another",
    "stop_on_eof": "`serve shutdown` is it",
    "termination_log": "`serve status` says why a replica did not start",
    "tls_cert_file": _TLS,
    "tls_client_ca_file": _TLS,
    "tls_key_file": _TLS,
}
"""Flags that a replica has no use for, and who sees to their matter."""


@dataclass(frozen=True)
class Config:
    """What is deployed: the settings of each replica, how many there are and where they may be."""

    settings: Settings
    replicas: Replicas


def read(path: str) -> Config:
    """Read a file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is wrong; names every fault.

    """
    content = {key.replace("-", "_"): value for key, value in options.content(path).items()}
    asked = content.pop("ray", None)
    faults = [*_faults(content)]
    settings = _tried(faults, lambda: options.settings(content))
    replicas = _tried(faults, lambda: Replicas.read(asked))
    if settings and settings.metrics_port is not None and replicas and replicas.may_be_none:
        faults.append(
            "metrics_port: with min_replicas 0 Prometheus, who asks for replicas, would have one "
            "started each time"
        )
    gpus = _tried(faults, lambda: _gpus(settings)) if settings else None
    if faults or not (settings and replicas):
        raise ValueError("; ".join(faults))
    if replicas.num_gpus is None:
        replicas = replicas.model_copy(update={"num_gpus": gpus})
    return Config(settings, replicas)


def _tried(faults: list[str], make: Callable[[], T]) -> T | None:
    try:
        return make()
    except (ValueError, StartError) as error:
        faults.append(str(error))
        return None


def _faults(content: Mapping[str, Any]) -> Iterator[str]:
    """Find what Serve would pass over, or do to the operator's surprise."""
    for one in fields(Settings):
        if one.name in _ELSEWHERE and content.get(one.name, one.default) != one.default:
            yield f"{one.name}: {_ELSEWHERE[one.name]}"
    if (port := content.get("metrics_port")) not in (None, 0, "0"):
        yield (
            f"metrics_port: must be 0, got {port}: each replica takes a free one, and Serve's HTTP "
            "tells Prometheus which"
        )
    if not content.get("allow_insecure"):
        unasked = "" if content.keys() & {"token_file", "jwt_jwks"} else " and call unasked"
        yield (
            "Serve has replicas listen on all addresses of their nodes, where other machines could "
            f"read along{unasked}; allow_insecure: true permits it"
        )


def _gpus(settings: Settings) -> int:
    """Count the GPUs that vLLM takes."""
    if settings.engine == "echo" or vllm_engine.installed()[1]:
        return 0
    return workers(settings.engine_args)
