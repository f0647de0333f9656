"""What a ChatRequest may say, whatever the model. Finds every fault at once; changes nothing."""

from talkwire_server.checks.json_text import json_fault
from talkwire_server.checks.limits import limit_violations
from talkwire_server.checks.request import (
    REQUEST_ID,
    Support,
    beyond,
    fields,
    refuse_unknown,
    violations,
)
from talkwire_server.checks.tool import forces_call
from talkwire_server.checks.wire import crowded, head

__all__ = [
    "REQUEST_ID",
    "Support",
    "beyond",
    "crowded",
    "fields",
    "forces_call",
    "head",
    "json_fault",
    "limit_violations",
    "refuse_unknown",
    "violations",
]
