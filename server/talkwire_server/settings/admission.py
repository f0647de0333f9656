"""How many requests may run and wait, and how much one caller may have."""

from dataclasses import dataclass

from talkwire_server.settings.flag import Group, flag


@dataclass(frozen=True, kw_only=True)
class AdmissionSettings(Group):
    """Admission."""

    max_running_requests: int | None = flag(
        None,
        "answers generated at once (default: an eighth more than the engine works on at once, so "
        "that it has the next when one ends)",
        at_least=1,
        at_most=1_000_000,
    )
    max_queued_requests: int | None = flag(
        None,
        "requests that wait for that (default: half as many)",
        at_least=0,
        at_most=1_000_000,
    )
    max_queued_tokens: int | None = flag(
        None,
        "prompt tokens that wait, one for four bytes of text (default: 16384 for each of "
        "--max-queued-requests)",
        at_least=1,
    )
    max_queued_bytes: int = flag(268_435_456, "of requests that wait, together", at_least=1)
    max_running_per_caller: int | None = flag(
        None, "requests of one caller at once, those that wait among them", at_least=1
    )
    max_tokens_per_minute: int | None = flag(
        None, "tokens of one caller, prompts and answers together", at_least=1
    )
