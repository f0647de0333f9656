"""What Ray Serve runs: replicas behind HAProxy. Knows no configuration files."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingPolicy, HTTPOptions, gRPCOptions

from talkwire_server.ray_serve import servicers
from talkwire_server.ray_serve.config import Config
from talkwire_server.ray_serve.replica import Replica
from talkwire_server.ray_serve.replicas import ENVIRONMENT
from talkwire_server.ray_serve.scaling import policy as scale
from talkwire_server.settings import Settings

REPLICA = "replica"
"""The name of the one deployment of an application."""

MOST_CALLS = 100_000  # of a replica: how many may run and wait is its admission's to say


def start(config: Config) -> None:
    """Start Serve, unless it runs already: then as it does."""
    settings, replicas = config.settings, config.replicas
    serve.start(
        proxy_location=replicas.proxy_location,
        http_options=HTTPOptions(host=settings.host, port=replicas.http_port),
        grpc_options=gRPCOptions(
            port=settings.port,
            grpc_servicer_functions=[f"{servicers.__name__}.add_services_to_server"],
            enable_reflection=reflects(settings),
        ),
    )


def reflects(settings: Settings) -> bool:
    """Tell whether Serve answers reflection: its own, which asks for no token."""
    return settings.reflection and (settings.open_reflection or not settings.wants_tokens)


def application(config: Config) -> Application:
    """Make what Serve runs."""
    settings, replicas = config.settings, config.replicas
    number: dict[str, Any] = {"num_replicas": replicas.num_replicas}
    if scaling := replicas.autoscaling_config:
        if "policy" not in scaling.model_fields_set:
            policy = AutoscalingPolicy(policy_function=f"{scale.__module__}:{scale.__name__}")
            scaling = scaling.model_copy(update={"policy": policy})
        number = {"autoscaling_config": scaling}
    deployment = serve.deployment(
        Replica,
        name=REPLICA,
        **number,
        max_replicas_per_node=replicas.max_replicas_per_node,
        max_surge_percent=replicas.max_surge_percent,
        max_ongoing_requests=MOST_CALLS,
        graceful_shutdown_timeout_s=settings.grace,
        health_check_period_s=replicas.health_check_period_s,
        ray_actor_options={
            "num_cpus": replicas.num_cpus,
            "num_gpus": replicas.num_gpus,
            "resources": replicas.resources,
            "runtime_env": {"env_vars": ENVIRONMENT | replicas.env},
        },
    )
    return deployment.bind(settings)
