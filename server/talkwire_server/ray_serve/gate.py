"""The gate of one replica of several: it bounds its own calls, and ends any. Knows no sockets."""

from talkwire_server.admission import LocalGate
from talkwire_server.callers import Caller
from talkwire_server.ray_serve.peers import ask_all


class ReplicaGate(LocalGate):
    """What lets calls in at a replica.

    HAProxy sends an Abort to any replica, and so it goes on to all.
    """

    async def abort(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside, whichever replica has it."""
        if await self.abort_here(call_id, caller):
            return True
        return True in await ask_all("abort_here", call_id, caller)

    async def abort_here(self, call_id: str, caller: Caller) -> bool:
        """End a call that is inside this replica."""
        return await super().abort(call_id, caller)
