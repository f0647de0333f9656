"""The gate of one replica of several: it bounds its own calls, and ends any. Knows no sockets."""

from ray import serve

from talkwire_server.admission import LocalGate
from talkwire_server.callers import Caller

_PATIENCE = 5.0  # seconds for all replicas to answer


class ReplicaGate(LocalGate):
    """What lets calls in at a replica.

    HAProxy sends an Abort to any replica, and so it goes on to all.
    """

    async def abort(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside, whichever replica has it."""
        if await self.abort_here(call_id, caller):
            return True
        own = serve.get_replica_context()
        replicas = serve.get_deployment_handle(own.deployment, own.app_name)
        asked = replicas.broadcast("abort_here", call_id, caller)
        found = await asked.results_async(timeout_s=_PATIENCE, return_exceptions=True)
        return True in found

    async def abort_here(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside this replica."""
        return await super().abort(call_id, caller)
