"""What the frontend alone costs: the echo engine's answers through several servers.

    python benchmarks/frontends.py [--levels 1,32,256] [--delay 0.025] [--frontends 4] [--out FILE]
                                                  (needs talkwire[bench]; all flags: --help)

talkwire    `talkwire serve --engine echo`, asked by AsyncClient: each chat a call of its own, then
            all chats of a client process over one call ("talkwire multiplexed"); with --frontends
            the latter of several processes, too ("talkwire multiplexed, 4 frontends")
grpc        a bare grpc.aio server and the generated stub: the same messages, nothing checked
sse         Starlette on uvicorn: the same words in OpenAI's chunks, asked by aiohttp

A word of every answer comes each --delay seconds, as from an engine's step; 0 is as fast as can be.
"""

from functools import partial
from pathlib import Path

from load import options
from load.chats import Chats, Expected, texts
from load.grpc_callers import StubCaller
from load.measure import Contender
from load.ours import talkwire
from load.servers import serves_grpc, serves_http
from load.sse_caller import SseCaller

BASELINES = Path(__file__).parent / "load/baselines.py"


def contenders(chats: Chats, delay: float, frontends: int = 1) -> dict[str, Contender]:
    """Say how each server is started and asked."""

    def served(count: int, port: int) -> list[str]:
        flags = [f"--port={port}", f"--echo-delay={delay}", "--log-level=warning"]
        return ["-m", "talkwire_server", "--engine=echo", f"--frontends={count}", *flags]

    def baseline(kind: str, port: int) -> list[str]:
        return [str(BASELINES), kind, str(port), str(delay)]

    return {
        **talkwire(chats, served, frontends),
        "grpc": Contender(
            ways={"grpc": lambda port: partial(StubCaller, port, chats)},
            command=partial(baseline, "grpc"),
            serves=serves_grpc,
        ),
        "sse": Contender(
            ways={"sse": lambda port: partial(SseCaller, port, chats)},
            command=partial(baseline, "sse"),
            serves=serves_http,
        ),
    }


def main() -> None:
    """Measure."""
    parser = options.parser(__doc__, ["talkwire", "grpc", "sse"], "1,8,32,64,128,256")
    parser.add_argument("--delay", type=float, default=0.025, help="of a word, s (%(default)s)")
    flags = parser.parse_args()
    chats = Chats(texts(flags.tokens), flags.tokens)
    expected = Expected(chats, "stop", exact=True, texts=dict(enumerate(chats.prompts)))
    servers = contenders(chats, flags.delay, flags.frontends)
    options.run("frontends", flags, servers, expected, {"delay": flags.delay})


if __name__ == "__main__":
    main()
