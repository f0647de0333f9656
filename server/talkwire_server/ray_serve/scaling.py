"""How many replicas the chats of the moment take. Knows none of them."""

from typing import Any

from ray.serve.config import AutoscalingContext

CHATS = "chats"
"""What a replica tells of: how many run there or wait for their turn."""


def policy(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Have `target_ongoing_requests` chats at each replica.

    Serve's own policy counts calls, and many chats may share one (ChatMultiplex). Bounds, delays
    and factors are Serve's.
    """
    chats = sum((context.aggregated_metrics or {}).get(CHATS, {}).values())
    return chats / context.config.target_ongoing_requests, {}
