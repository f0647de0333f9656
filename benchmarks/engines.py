"""vLLM through several servers: the same chats, one server at a time, against the bare engine.

    python benchmarks/engines.py [--model tiny|steps|embedded|DIR] [--levels 1,8,32] [--frontends 4]
                                 [--out FILE] [-- ENGINE FLAGS]
                                            (needs talkwire[bench] and vLLM; all flags: --help)

raw           `AsyncLLM.generate`, consumed in its own process: what no server can do better than
talkwire      `talkwire serve`, asked by AsyncClient: each chat a call of its own, then all chats of
              a client process over one call ("talkwire multiplexed"); with --frontends the latter
              of several processes, too ("talkwire multiplexed, 4 frontends")
openai http   `vllm serve`: chunks as server-sent events, asked by aiohttp
vllm --grpc   `vllm serve --grpc` (needs smg-grpc-servicer): token ids, no text, no chat template

Greedy, and every answer has --tokens tokens. On a CPU, in float32, each must be word for word the
first one to its prompt, raw's; on a GPU, where sums depend on the batch, how many are is shown, and
the others have their tokens counted. On a GPU engine flags are vLLM's defaults but for those given,
and that there is no prefix cache: the same prompts come again in other runs and ways.
"""

import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from load import options
from load.chats import Chats, Expected, questions
from load.engine import EngineSetup
from load.measure import Contender
from load.ours import talkwire
from load.servers import serves_grpc, serves_http
from load.sse_caller import SseCaller
from load.token_callers import RawCaller, VllmGrpcCaller


def contenders(chats: Chats, flags: Sequence[str], frontends: int) -> dict[str, Contender]:
    """Say how each server is started and asked; all have the same flags of vLLM's engine."""

    def command(module: str, *more: str, port: int) -> list[str]:
        return ["-m", module, f"--port={port}", "--host=127.0.0.1", *flags, *more]

    def served(count: int, port: int) -> list[str]:
        more = [f"--frontends={count}"] if count > 1 else []
        return command("talkwire_server", "--default-system=", *more, port=port)

    return {
        "raw": Contender(ways={"raw": lambda _: partial(RawCaller, flags, chats)}),
        **talkwire(chats, served, frontends),
        "openai": Contender(
            ways={"openai http": lambda port: partial(SseCaller, port, chats)},
            command=lambda port: command("vllm.entrypoints.openai.api_server", port=port),
            serves=serves_http,
        ),
        "vllm-grpc": Contender(
            ways={"vllm --grpc": lambda port: partial(VllmGrpcCaller, port, chats)},
            command=lambda port: command("vllm.entrypoints.launchers.grpc_server", port=port),
            serves=serves_grpc,
        ),
    }


def main() -> None:
    """Measure."""
    parser = options.parser(__doc__, ["raw", "talkwire", "openai", "vllm-grpc"], "1,8,32,64")
    parser.add_argument(
        "--model", default="tiny", help="tiny, steps, embedded or a folder (%(default)s)"
    )
    parser.add_argument("engine_flags", nargs="*", help="vLLM's, after --", metavar="FLAG")
    flags = parser.parse_args()
    if find_spec("smg_grpc_servicer") is None and "vllm-grpc" in flags.servers:
        sys.exit("vllm-grpc needs smg-grpc-servicer: pip install it, or choose other --servers")
    with tempfile.TemporaryDirectory() as temporary:
        most = max(options.levels(flags))
        engine = EngineSetup(flags.model, most, flags.engine_flags, Path(temporary))
        chats = Chats(questions(), flags.tokens, str(engine.folder))
        settings = {"model": Path(flags.model).name, "engine_flags": engine.flags[1:]}
        expected = Expected(chats, "length", exact=engine.exact)
        options.run(
            "engines", flags, contenders(chats, engine.flags, flags.frontends), expected, settings
        )


if __name__ == "__main__":
    main()
