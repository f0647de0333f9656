"""What each caller has inside, and what it may still spend. Knows no queue."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from time import monotonic

from talkwire_server.admission.pace import Pace
from talkwire_server.callers import Caller
from talkwire_server.engine import Call
from talkwire_server.errors import QuotaExceeded
from talkwire_server.settings.admission import AdmissionSettings


class _Account:
    """One caller's. What it has spent comes back with time, its whole limit in a minute."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.weight = 0
        self.inside = 0
        self.held = 0  # tokens of the calls inside, about
        self._missing = 0.0
        self._at = monotonic()

    @property
    def missing(self) -> float:
        """Tokens that it has spent of its limit and that time has not brought back."""
        if self.limit is None:
            return 0.0
        now = monotonic()
        self._missing = max(0.0, self._missing - (now - self._at) * self.limit / 60)
        self._at = now
        return self._missing

    def spend(self, tokens: int) -> None:
        if self.limit:
            self._missing += tokens

    @property
    def idle(self) -> bool:
        """Whether it can be forgotten."""
        return not self.inside and not self.missing


class Accounts:
    """Those of all callers.

    Tokens are held for a call while it is inside. When it leaves it is charged with those that the
    engine counted instead: one that never ran costs nothing.
    """

    def __init__(self, settings: AdmissionSettings, pace: Pace) -> None:
        self._most_running = settings.max_running_per_caller
        self._most_tokens = settings.max_tokens_per_minute
        self._pace = pace
        self._accounts: dict[str, _Account] = {}
        self.weights = 0
        """Of all callers that have a call inside, together."""

    @contextmanager
    def charging(self, caller: Caller, call: Call, tokens: int) -> Iterator[None]:
        """Count a call in for the length of the block, or raise QuotaExceeded."""
        account = self._account(caller)
        self._check(caller, account)
        if not account.inside:
            account.weight = caller.weight
            self.weights += account.weight
        account.inside += 1
        account.held += tokens
        try:
            yield
        finally:
            account.inside -= 1
            account.held -= tokens
            if not account.inside:
                self.weights -= account.weight
            account.spend(call.used)

    def _account(self, caller: Caller) -> _Account:
        for name, account in [*islice(self._accounts.items(), 2)]:  # so that they stay few
            del self._accounts[name]
            if not account.idle:
                self._accounts[name] = account
        limit = caller.tokens_per_minute or self._most_tokens
        if caller.name not in self._accounts:
            self._accounts[caller.name] = _Account(limit)
        account = self._accounts[caller.name]
        account.limit = limit  # that of a token may change
        return account

    def _check(self, caller: Caller, account: _Account) -> None:
        most = caller.max_running or self._most_running
        if most and account.inside >= most:
            delay = self._pace.retry_after(1, most)
            raise QuotaExceeded(caller.name, f"{most} at once", delay)
        if account.limit:
            over = account.missing + account.held - account.limit
            if over >= 0:
                delay = (over + 1) * 60 / account.limit
                raise QuotaExceeded(caller.name, f"{account.limit} tokens a minute", delay)
