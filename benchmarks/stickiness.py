"""What it is worth that a conversation stays at one of several servers: prefix-cache hits, TTFT.

    python benchmarks/stickiness.py [--replicas 2] [--conversations 9] [--turns 5] [--repeats 2]
                                    [--out FILE]     (needs talkwire[cpu,bench]; all flags: --help)

Servers of the embedded model, each on a core of its own where there are enough, and one AsyncClient
to all of them. All conversations have a system prompt in common and grow with each turn; --streams
of them are answered at once, and who speaks next is chance. Each way has a cache of its own (by
cache_salt), and each repeat, too. Cached is what the answers say of their prompts' tokens; TTFT is
the client's, from the question to the first text, over the turns of all repeats.
"""

import argparse
import asyncio
import json
import os
import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from time import monotonic
from typing import Any

from load import machine
from load.chats import WORDS
from load.servers import free_port, serves_grpc, serving
from talkwire import AsyncClient, AsyncConversation

WAYS: dict[str, dict[str, Any]] = {
    "round_robin": {"balance": "round_robin", "sticky": False},
    "least_requests": {"balance": "least_requests", "sticky": False},
    "sticky": {"balance": "round_robin", "sticky": True},
}
SYSTEM = "You answer in one short sentence, and you never repeat what was said before. " * 12
SAID = 120  # words of a user in a turn
TOKENS = 12  # of an answer


@dataclass(frozen=True)
class Turn:
    """What an answer cost: tokens of its prompt, those of them that were cached, seconds."""

    prompt: int
    cached: int
    ttft: float


@contextmanager
def replicas(flags: argparse.Namespace, folder: Path) -> Iterator[list[str]]:
    """Serve, one started after the other; yield the targets."""
    cores = sorted(os.sched_getaffinity(0))
    if flags.model == "echo":
        engine = ["--engine=echo"]
    else:
        engine = [f"--kv-cache-memory-bytes={flags.kv_cache_bytes}", "--max-model-len=2048"]
        engine += ["--max-num-seqs=8"]
    with ExitStack() as stack:
        targets = []
        for i in range(flags.replicas):
            port = free_port()
            command = ["-m", "talkwire_server", f"--port={port}", "--host=127.0.0.1", *engine]
            if len(cores) >= flags.replicas:  # the server inherits it
                os.sched_setaffinity(0, cores[i :: flags.replicas])
            try:
                stack.enter_context(serving(command, port, serves_grpc, folder / f"{i}.log"))
            finally:
                os.sched_setaffinity(0, cores)
            targets.append(f"127.0.0.1:{port}")
        yield targets


async def speak(conversation: AsyncConversation, said: str) -> Turn:
    """Take a turn."""
    begun, first = monotonic(), 0.0
    async with conversation.stream(said) as stream:
        async for chunk in stream:
            if not first and chunk.text:
                first = monotonic() - begun
        usage = stream.answer.usage
    return Turn(usage.prompt_tokens, usage.cached_tokens, first)


async def run(
    targets: Sequence[str], way: str, repeat: int, flags: argparse.Namespace
) -> list[Turn]:
    """Have all conversations, in one way."""
    draw, turns = random.Random(repeat), []
    options = WAYS[way]
    async with AsyncClient(
        targets,
        balance=options["balance"],
        system=SYSTEM,
        cache_salt=f"{way}{repeat}",
        temperature=0,
        max_tokens=TOKENS,
        ignore_eos=True,
    ) as client:
        waiting = [
            (client.conversation(sticky=options["sticky"]), flags.turns)
            for _ in range(flags.conversations)
        ]

        async def answer() -> None:
            while waiting:
                conversation, left = waiting.pop(draw.randrange(len(waiting)))
                said = " ".join(draw.choices(WORDS, k=SAID))
                turns.append(await speak(conversation, said))
                if left > 1:
                    waiting.append((conversation, left - 1))

        await asyncio.gather(*(answer() for _ in range(flags.streams)))
    return turns


def figures(turns: Sequence[Turn]) -> dict[str, float]:
    """Sum turns up."""
    prompt, cached = sum(turn.prompt for turn in turns), sum(turn.cached for turn in turns)
    marks = quantiles((1000 * turn.ttft for turn in turns), n=20, method="inclusive")
    return {
        "turns": len(turns),
        "prompt_tokens": prompt,
        "cached_percent": 100 * cached / prompt,
        "ttft_p50_ms": marks[9],
        "ttft_p95_ms": marks[18],
    }


async def measure(flags: argparse.Namespace, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Measure each way, by turns."""
    for target in targets:
        async with AsyncClient(target, max_tokens=2) as client:
            await client.chat(SYSTEM)  # the first is slow
    turns: dict[str, list[Turn]] = {way: [] for way in WAYS}
    for repeat in range(flags.repeats):
        for way in WAYS:
            turns[way] += await run(targets, way, repeat, flags)
    return {way: figures(taken) for way, taken in turns.items()}


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    counts = {"replicas": 2, "conversations": 9, "turns": 5, "streams": 2, "repeats": 2}
    for name, number in counts.items():
        parser.add_argument(f"--{name}", type=int, default=number, help="(%(default)s)")
    parser.add_argument("--model", choices=["embedded", "echo"], default="embedded")
    parser.add_argument(
        "--kv-cache-bytes", type=int, default=256 << 20, help="of each server (%(default)s)"
    )
    parser.add_argument("--out", type=Path, help="write FILE.json", metavar="FILE")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, replicas(flags, Path(temporary)) as targets:
        seen = asyncio.run(measure(flags, targets))
    print(f"{'':>15}", *(f"{name:>15}" for name in seen["sticky"]))
    for way, numbers in seen.items():
        print(f"{way:>15}", *(f"{number:15.1f}" for number in numbers.values()))
    if flags.out:
        kept = {key: getattr(flags, key) for key in (*counts, "model", "kv_cache_bytes")}
        told = {"benchmark": "stickiness", "machine": machine.describe(), "settings": kept}
        flags.out.with_suffix(".json").write_text(
            json.dumps({**told, "ways": seen}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
