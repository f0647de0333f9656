"""How long the server waits: for its clients, its engine, and at its end."""

from dataclasses import dataclass

from talkwire_server.settings.flag import Group, flag


@dataclass(frozen=True, kw_only=True)
class LifetimeSettings(Group):
    """Lifetime."""

    lame_duck: float = flag(
        0.0,
        "at a stop, to go on taking calls while load balancers see that health says NOT_SERVING",
        at_least=0,
        metavar="S",
    )
    grace: float = flag(
        30.0, "then, for running calls to finish; those left are cut", at_least=0, metavar="S"
    )
    request_timeout: float = flag(
        60.0, "for a request to arrive, from its headers to its end", above=0, metavar="S"
    )
    slow_reader_timeout: float = flag(
        30.0,
        "for a client to take a message of its answer, which is else aborted; 0: without end",
        at_least=0,
        metavar="S",
    )
    engine_stall_timeout: float = flag(
        120.0,
        "without a step of an engine that has work, which then counts as dead; 0: without end",
        at_least=0,
        metavar="S",
    )
    restart_engine: int = flag(
        0,
        "start an engine that died anew, so often within an hour; else the server ends with it",
        at_least=0,
        metavar="N",
    )
    termination_log: str | None = flag(
        None, "where to write in one line why the server failed", metavar="FILE"
    )
