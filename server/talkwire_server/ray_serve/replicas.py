"""How many replicas run and where, as the key `ray` of the configuration says. Starts none."""

from argparse import ArgumentError, ArgumentParser
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ray.serve.config import AutoscalingConfig

ENVIRONMENT = {
    # Handlers use gRPC's context, in its thread; and what a caller does not read would else be kept
    # in an endless queue between two.
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
}
"""Variables that all replicas have."""


class Replicas(BaseModel):
    """What Serve has a word for has that word, and Serve's default where none is said here.

    Attributes:
        name: Of the application.
        num_replicas: How many run, unless autoscaling says.
        autoscaling_config: Serve's. `target_ongoing_requests` are the chats, running and waiting,
            that one replica shall have; more make for more replicas.
        max_replicas_per_node: At most.
        max_surge_percent: How many more may run while others replace them; with none, a replica
            ends before another begins.
        num_cpus: Of a replica; also the threads of an engine that runs on them.
        num_gpus: Of a replica; by default as many as vLLM's flags of parallelism make workers.
        resources: Others that its node must have, as nodes name them.
        env: Environment variables of the replicas.
        health_check_period_s: How often Serve asks each whether it lives.
        proxy_location: Where HAProxy listens.
        http_port: Of Serve's HTTP, where Prometheus is told of the replicas.

    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field("talkwire", min_length=1)
    num_replicas: int = Field(1, ge=1)
    autoscaling_config: AutoscalingConfig | None = None
    max_replicas_per_node: int | None = Field(None, ge=1, le=100)
    max_surge_percent: int = Field(0, ge=0, le=100)
    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float | None = Field(None, ge=0)
    resources: dict[str, float] = {}
    env: dict[str, str] = {}
    health_check_period_s: float = Field(2.0, gt=0)
    proxy_location: Literal["EveryNode", "HeadOnly"] = "EveryNode"
    http_port: int = Field(8000, ge=1, le=65535)

    @classmethod
    def read(cls, content: Any) -> Self:
        """Make them of what a file holds. Raises ValueError, which names every fault."""
        try:
            return cls.model_validate({} if content is None else content)
        except ValidationError as error:
            raise ValueError("; ".join(_faults(error))) from None

    @property
    def may_be_none(self) -> bool:
        """Whether there may be no replica."""
        scaling = self.autoscaling_config
        return scaling is not None and scaling.min_replicas == 0

    @field_validator("env")
    @classmethod
    def _free(cls, given: dict[str, str]) -> dict[str, str]:
        if taken := given.keys() & ENVIRONMENT.keys():
            raise ValueError(f"{', '.join(taken)}: replicas need it as it is")
        return given

    @field_validator("autoscaling_config", mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        """Serve would pass over what it does not know, and take two chats for many."""
        if not isinstance(given, dict):
            return given
        if unknown := given.keys() - AutoscalingConfig.model_fields.keys():
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        if "target_ongoing_requests" not in given:
            raise ValueError("target_ongoing_requests: required")
        return given


def _faults(error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        path = ".".join(map(str, ("ray", *fault["loc"])))
        yield f"{path}: {fault['msg'].removeprefix('Value error, ')}"


def workers(engine_args: Sequence[str]) -> int:
    """Count the processes, a GPU each, that vLLM's flags of parallelism make on one node.

    Raises:
        ValueError: A flag holds no number.

    """
    parser = ArgumentParser(allow_abbrev=False, add_help=False, exit_on_error=False)
    for flags in _PARALLEL:
        parser.add_argument(*flags, type=int, default=1)
    try:
        sizes, _ = parser.parse_known_args(engine_args)
    except ArgumentError as error:
        raise ValueError(str(error)) from None
    return prod(vars(sizes).values())


_PARALLEL = (
    ("--tensor-parallel-size", "-tp"),
    ("--pipeline-parallel-size", "-pp"),
    ("--data-parallel-size", "-dp"),
    ("--prefill-context-parallel-size", "-pcp"),
)
