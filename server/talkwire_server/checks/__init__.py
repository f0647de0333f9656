"""What a ChatRequest may say, whatever the model. Finds every fault at once; changes nothing."""

from talkwire_server.checks.json_text import json_fault
from talkwire_server.checks.request import (
    REQUEST_ID,
    Support,
    beyond,
    fields,
    refuse_unknown,
    violations,
)
from talkwire_server.checks.tool import forces_call

__all__ = [
    "REQUEST_ID",
    "Support",
    "beyond",
    "fields",
    "forces_call",
    "json_fault",
    "refuse_unknown",
    "violations",
]
