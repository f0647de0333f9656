"""What one replica asks of all replicas of its application. Knows not what."""

import asyncio
from typing import Any

from ray import serve

_PATIENCE = 5.0  # seconds for all to answer


async def ask_all(method: str, *arguments: Any) -> list[Any]:
    """Call a method of each that runs and does not leave, itself included.

    Return what they answered, but for those who failed. Raises TimeoutError where one does not
    answer in time, and DeploymentUnavailableError where none runs.
    """
    own = serve.get_replica_context()
    # In a thread, because it asks Serve's controller whether there are any.
    replicas = await asyncio.to_thread(serve.get_deployment_handle, own.deployment, own.app_name)
    asked = replicas.broadcast(method, *arguments)
    told = await asked.results_async(timeout_s=_PATIENCE, return_exceptions=True)
    return [answer for answer in told if not isinstance(answer, BaseException)]
