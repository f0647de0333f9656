"""A Ray cluster: which nodes it has, and what must have been said there before Ray was started."""

from collections.abc import Iterator, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
HARD_STOP = "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S"

_NEEDED = (
    f"{HAPROXY} is not 1 {{}}: without HAProxy Ray Serve loses cancels of callers, and a message "
    f"costs it many times as much; export {HAPROXY}=1, and start Ray anew"
)


def own_fault(environ: Mapping[str, str]) -> str:
    """Say what this process's environment lacks; empty if nothing."""
    return "" if environ.get(HAPROXY) == "1" else _NEEDED.format("here")


def faults(grace: float) -> Iterator[str]:
    """Say what the nodes lack, where answers may go on for `grace` seconds at a leaving replica."""
    said = [(node["NodeManagerAddress"], *_environment(node["NodeID"])) for node in _nodes()]
    if without := [address for address, haproxy, _ in said if haproxy != "1"]:
        yield _NEEDED.format(f"on {', '.join(without)}")
    if early := [address for address, _, stop in said if float(stop or 120) < grace]:
        yield (
            f"{HARD_STOP} is less than the grace of {grace:g} s on {', '.join(early)}: when any "
            "replica comes or goes, HAProxy would cut streams after so many seconds"
        )


def head() -> str:
    """Return the address of the head node, where HAProxy listens at any rate."""
    (address,) = (
        node["NodeManagerAddress"]
        for node in _nodes()
        if "node:__internal_head__" in node["Resources"]
    )
    return str(address)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _environment(node: str) -> tuple[str | None, str | None]:
    """Ask a node."""
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    asked = _ask.options(num_cpus=0, scheduling_strategy=there).remote(HAPROXY, HARD_STOP)
    told: tuple[str | None, str | None] = ray.get(asked)
    return told


@ray.remote  # type: ignore[untyped-decorator]
def _ask(*names: str) -> tuple[str | None, ...]:
    import os

    return tuple(map(os.environ.get, names))
