"""The ways in which `talkwire serve` is asked, whatever its engine."""

from collections.abc import Callable, Sequence
from functools import partial

from load.chats import Chats
from load.grpc_callers import MultiplexCaller, TalkwireCaller
from load.measure import Contender
from load.servers import serves_grpc


def talkwire(
    chats: Chats, command: Callable[[int, int], Sequence[str]], frontends: int
) -> dict[str, Contender]:
    """Make its contenders: one process, and several. The command is of their number and a port."""

    def multiplexed(port: int) -> partial[MultiplexCaller]:
        return partial(MultiplexCaller, port, chats)

    return {
        "talkwire": Contender(
            ways={
                "talkwire": lambda port: partial(TalkwireCaller, port, chats),
                "talkwire multiplexed": multiplexed,
            },
            command=partial(command, 1),
            serves=serves_grpc,
        ),
        "frontends": Contender(
            ways={f"talkwire multiplexed, {frontends} frontends": multiplexed},
            command=partial(command, frontends),
            serves=serves_grpc,
        ),
    }
