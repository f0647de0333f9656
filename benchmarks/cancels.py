"""How soon the engine is rid of an answer whose reader leaves, while others are being generated.

    python benchmarks/cancels.py [--model tiny|steps|embedded|DIR|echo] [--running 256]
                                 [--cancels 100] [--out FILE] [-- ENGINE FLAGS]
                                                         (needs talkwire[bench] and vLLM)

Client processes read --running answers to their ends, which are checked; beside them one answer
after another is begun and left. Of those that were left before the first of the others ended
(`left`) milliseconds are counted from then on to two events: the frontend has aborted the request,
and the engine says after a step that it runs one less. The second is late by up to a step, whose
length is `step`, the median of what the readers' answers took for a token; `said` is how often it
came before the next one was begun. Where it did not, the time until then is counted: it took at
least that.
"""

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

from load import machine
from load.chats import Chats, Expected, Reply, questions, texts
from load.clients import Clients
from load.engine import EngineSetup
from load.figures import percentile
from load.grpc_callers import MultiplexCaller, TalkwireCaller
from load.servers import free_port, serves_grpc, serving
from talkwire import AsyncClient

WATCHED = Path(__file__).parent / "load/watched.py"
WAYS = {"talkwire": TalkwireCaller, "talkwire multiplexed": MultiplexCaller}


@dataclass(frozen=True)
class Leave:
    """An answer that was left: its id, when that was, and when the next one was begun."""

    id: str
    at: float
    until: float


async def leave(
    port: int, count: int, is_over: Callable[[], bool], options: dict[str, Any]
) -> list[Leave]:
    """Begin answers and leave them, one after another."""
    left, draw, step = list[Leave](), random.Random(0), 0.0
    async with AsyncClient(f"127.0.0.1:{port}", max_tokens=100, **options) as client:
        for number in range(count + 1):
            if is_over():
                break
            async with client.stream("Tell me a story. " * 30, ignore_eos=True) as stream:
                pieces, times = draw.randint(1, 3) if number else 32, list[float]()
                async for _ in stream:
                    times.append(monotonic())
                    if len(times) == pieces:
                        break
                at = monotonic()
            step = step or (times[-1] - times[0]) / (len(times) - 1)
            await asyncio.sleep(0.02 + step * draw.uniform(2, 3))  # till the engine has told
            left.append(Leave(stream.id, at, monotonic()))
    return left[1:]


async def load_and_leave(
    clients: Clients, port: int, flags: argparse.Namespace, options: dict[str, Any]
) -> tuple[list[Reply], list[Leave]]:
    """Have the clients read, and leave answers meanwhile."""
    reading = asyncio.create_task(asyncio.to_thread(clients.run, flags.running, 1))
    await asyncio.sleep(1)
    left = await leave(port, flags.cancels, reading.done, options)
    replies = [reply for share in await reading for reply in share.replies]
    first_end = min(reply.at[-1] for reply in replies)
    if not (beside := [one for one in left if one.until < first_end]):
        sys.exit("the other answers ended too early: give more --tokens")
    return replies, beside


def by_frontend(left: Sequence[Leave], ended: Mapping[str, float]) -> list[float]:
    """Return the milliseconds until the frontend was rid of each."""
    return sorted(1000 * (ended[one.id] - one.at) for one in left)


def by_engine(
    left: Sequence[Leave], running: Sequence[tuple[float, int]]
) -> tuple[int, list[float]]:
    """Return how often the engine said so, and the milliseconds until it did or the next began."""
    less = [at for (_, before), (at, after) in pairwise(running) if after < before]
    gone = [next((at for at in less if one.at < at < one.until), one.until) for one in left]
    said = sum(at < one.until for one, at in zip(left, gone, strict=True))
    return said, sorted(1000 * (at - one.at) for one, at in zip(left, gone, strict=True))


def told(name: str, milliseconds: Sequence[float]) -> dict[str, float]:
    """Sum delays up."""
    marks = {"p50": 50.0, "p99": 99.0, "max": 100.0}
    return {f"{name}_{mark}": percentile(milliseconds, percent) for mark, percent in marks.items()}


def run(
    flags: argparse.Namespace, expected: Expected, command: list[str], folder: Path
) -> dict[str, dict[str, float]]:
    """Measure both ways on one server; return milliseconds."""
    port, found, leaves = free_port(), dict[str, dict[str, float]](), dict[str, list[Leave]]()
    log, file = folder / "watched.log", folder / "watched.json"
    with serving([str(WATCHED), str(file), f"--port={port}", *command], port, serves_grpc, log):
        for way, kind in WAYS.items():
            with Clients(partial(kind, port, expected.chats), flags.clients, port) as clients:
                options = dict(kind.options)
                replies, left = asyncio.run(load_and_leave(clients, port, flags, options))
            expected.check(replies)
            steps = sorted((reply.at[-1] - reply.at[0]) / (reply.tokens - 1) for reply in replies)
            found[way] = {"left": len(left), "step_p50": 1000 * percentile(steps, 50)}
            leaves[way] = left
    seen = json.loads(file.read_text())
    for way, left in leaves.items():
        found[way] |= told("frontend", by_frontend(left, seen["ended"]))
        said, times = by_engine(left, seen["running"])
        if said:  # the echo engine says nothing
            found[way] |= {"said": said, **told("engine", times)}
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tiny", help="tiny, steps, embedded, echo or a folder")
    parser.add_argument("--running", type=int, default=256, help="answers (%(default)s)")
    parser.add_argument("--cancels", type=int, default=100, help="of others (%(default)s)")
    parser.add_argument("--tokens", type=int, default=1500, help="of each answer (%(default)s)")
    parser.add_argument("--clients", type=int, default=2, help="processes (%(default)s)")
    parser.add_argument("--out", type=Path, help="write FILE.json", metavar="FILE")
    parser.add_argument("engine_flags", nargs="*", help="vLLM's, after --", metavar="FLAG")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        found = run(flags, *_setup(flags, Path(temporary)), Path(temporary))
    for way, figures in found.items():
        print(way, *(f"{name} {value:.1f}" for name, value in figures.items()), sep="  ")
    if flags.out:
        kept = {key: getattr(flags, key) for key in ("running", "cancels")}
        kept["model"] = Path(flags.model).name
        told = {"benchmark": "cancels", "machine": machine.describe(), "settings": kept}
        flags.out.with_suffix(".json").write_text(json.dumps({**told, "ways": found}, indent=1))


def _setup(flags: argparse.Namespace, temporary: Path) -> tuple[Expected, list[str]]:
    """Say what is asked of which server."""
    if flags.model == "echo":
        chats = Chats(texts(flags.tokens), flags.tokens)
        expected = Expected(chats, "stop", exact=True, texts=dict(enumerate(chats.prompts)))
        return expected, ["--engine=echo", "--echo-delay=0.025"]
    engine = EngineSetup(flags.model, flags.running + 1, flags.engine_flags, temporary)
    chats = Chats(questions(), flags.tokens, str(engine.folder))
    return Expected(chats, "length", exact=engine.exact), [*engine.flags, "--default-system="]


if __name__ == "__main__":
    main()
