"""What metrics cost a token: two servers, one that counts and one that does not, asked by turns.

    python benchmarks/metrics_cost.py [--rounds 15] [--streams 32] [--tokens 128] [--frontends N]
    python benchmarks/metrics_cost.py --alone                           (needs talkwire[bench])

Both have the echo engine, as fast as it can. Told is the processor time of all of a server's
processes for each token: the median, and of the pairs of rounds the difference, with its quartiles;
and what it takes to be scraped. What a message, a chat and a value in a histogram cost
is also told alone, without a server around it, which is exact where the difference is small; with
PROMETHEUS_MULTIPROC_DIR=$(mktemp -d) before it, of one of several frontends.
"""

import argparse
import asyncio
import statistics
import tempfile
import timeit
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from typing import Any, cast

import grpc

from load.chats import Chats, Expected, texts
from load.clients import Clients, Make
from load.grpc_callers import MultiplexCaller, TalkwireCaller
from load.servers import ServerProcess, free_port, serves_grpc, serving
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.engine import Call
from talkwire_server.journal import Entry
from talkwire_server.telemetry.call_metrics import CallMetrics
from talkwire_server.telemetry.chat_metrics import FIRST_TOKEN, ChatMetrics

CHATS = 16  # of a stream in a round
SCRAPES = 20


class Asked:
    """A server and those who ask it."""

    def __init__(self, server: ServerProcess, clients: Clients, expected: Expected) -> None:
        self._server = server
        self._clients = clients
        self._expected = expected

    def cost(self, streams: int) -> float:
        """Return the microseconds of one round a token."""
        before = self._server.cpu()
        replies = [reply for share in self._clients.run(streams, CHATS) for reply in share.replies]
        spent = self._server.cpu() - before
        self._expected.check(replies)
        return spent / sum(reply.tokens for reply in replies) * 1e6


def scrape(server: ServerProcess, port: int) -> float:
    """Return the seconds of processor time that a server takes for a scrape."""
    before = server.cpu()
    for _ in range(SCRAPES):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            page.read()
    return (server.cpu() - before) / SCRAPES


async def alone() -> tuple[float, float, float]:
    """Return the microseconds of counting a message, a chat in its rpc, a value in a histogram."""

    async def answer(_request: object, _context: object) -> None:
        """Do nothing."""

    plain: Any = grpc.unary_stream_rpc_method_handler(
        answer, response_serializer=pb.ChatStreamResponse.SerializeToString
    )

    async def find(_: object) -> Any:
        return plain

    asked = SimpleNamespace(method="/talkwire.v1.ChatService/ChatStream")
    counting = await CallMetrics().intercept_service(find, cast(grpc.HandlerCallDetails, asked))
    message, context = pb.ChatStreamResponse(text=" word"), SimpleNamespace(code=lambda: None)
    handlers = plain, counting
    messages = [least(partial(one.response_serializer, message)) for one in handlers]
    rpcs = [least(partial(run, one.unary_stream, context)) for one in handlers]
    entry = Entry("id", "ChatStream", "me", {}, call=Call("id", "echo", pb.ChatRequest()))
    last = pb.ChatStreamResponse(finish_reason=pb.FINISH_REASON_STOP, usage=pb.Usage())
    cast(Call, entry.call).close(last, first_token=0.1)
    chat = least(partial(ChatMetrics(()).end, entry))
    value = least(partial(FIRST_TOKEN.observe, 0.03))
    return messages[1] - messages[0], chat + rpcs[1] - rpcs[0], value


def run(behavior: Callable[..., Any], context: object) -> None:
    """Run a handler that waits for nothing."""
    with suppress(StopIteration):
        behavior(None, context).send(None)


def least(step: Callable[[], object]) -> float:
    """Return the microseconds of processor time that a step takes when it is not disturbed."""
    times = timeit.repeat(step, timer=process_time, number=10_000, repeat=15)
    return min(times) / 10_000 * 1e6


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("rounds", 15), ("streams", 32), ("tokens", 128), ("frontends", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    parser.add_argument("--alone", action="store_true", help="no more than that")
    flags = parser.parse_args()
    if not flags.alone:
        beside(flags)
    message, chat, value = asyncio.run(alone())
    print(f"alone: {message:.2f} us a message, {chat:.1f} a chat, {value:.2f} a value")


def beside(flags: argparse.Namespace) -> None:
    """Measure two servers."""
    chats = Chats(texts(flags.tokens), flags.tokens)
    expected = Expected(chats, "stop", exact=True, texts=dict(enumerate(chats.prompts)))
    metrics = free_port()
    with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
        servers = []
        for name, more in (("off", []), ("on", [f"--metrics-port={metrics}"])):
            port = free_port()
            command = ["-m", "talkwire_server", "--engine=echo", f"--port={port}"]
            command += ["--log-level=warning", f"--frontends={flags.frontends}", *more]
            log = Path(logs) / name
            servers.append((port, stack.enter_context(serving(command, port, serves_grpc, log))))
        for caller in (TalkwireCaller, MultiplexCaller):
            with ExitStack() as clients:
                asked = []
                for port, server in servers:
                    make: Make = partial(caller, port, chats)
                    own = clients.enter_context(Clients(make, 2, port))
                    asked.append(Asked(server, own, expected))
                tell(caller.__name__, measure(asked, flags.rounds, flags.streams))
        print(f"a scrape takes {scrape(servers[1][1], metrics) * 1e3:.1f} ms")


def measure(asked: list[Asked], rounds: int, streams: int) -> tuple[list[float], list[float]]:
    """Return what a token costs without metrics and with them, round by round."""
    for one in asked:
        one.cost(streams)  # warm
    costs: tuple[list[float], list[float]] = ([], [])
    order = cycle((0, 1, 1, 0))  # so that no side is always the first
    for which in islice(order, 2 * rounds):
        costs[which].append(asked[which].cost(streams))
    return costs


def tell(name: str, costs: tuple[list[float], list[float]]) -> None:
    """Say what came of it."""
    off, on = map(statistics.median, costs)
    least, middle, most = statistics.quantiles(b - a for a, b in zip(*costs, strict=True))
    print(
        f"{name}: {off:.2f} us a token without metrics, {on:.2f} with them; "
        f"they cost {middle:.2f} ({least:.2f} to {most:.2f})"
    )


if __name__ == "__main__":
    main()
