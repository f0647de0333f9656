"""How often an answer that broke off and went on equals the unbroken one, by dtype.

    python benchmarks/continuation.py [DTYPE ...]      (default: both; needs talkwire[cpu])

Greedy answers of the embedded model, each broken after every one of its tokens. In bfloat16 a sum
depends on what is computed beside it, so that one token in many comes out otherwise.
"""

import asyncio
import subprocess
import sys

from talkwire import AsyncClient

QUERIES = (
    "Write a poem about the sea.",
    "Count from one to ten in words.",
    "What is the capital of France?",
    "Explain why the sky is blue.",
    "Tell me a joke about a cat.",
    "List five fruits.",
)
TOKENS = 48


async def agreement(client: AsyncClient, query: str) -> tuple[int, int]:
    """Count the continuations that equal the rest of the whole answer, and all of them."""
    whole = await client.chat(query)
    parts = await asyncio.gather(
        *(
            client.chat(query, continuation=whole.token_ids[:at])
            for at in range(1, len(whole.token_ids))
        )
    )
    same = [
        list(whole.token_ids[at:]) == list(part.token_ids) for at, part in enumerate(parts, start=1)
    ]
    return sum(same), len(same)


async def measure(dtype: str, port: int) -> None:
    """Print one dtype's rate."""
    target = f"127.0.0.1:{port}"
    async with AsyncClient(
        target, temperature=0, max_tokens=TOKENS, include={"token_ids": True}
    ) as client:
        if not await client.ready(120):
            sys.exit("the server did not start")
        counts = [await agreement(client, query) for query in QUERIES]
    same, all_of_them = map(sum, zip(*counts, strict=True))
    rate = same / all_of_them
    sys.stdout.write(f"{dtype}: {same} of {all_of_them} continuations are equal ({rate:.1%})\n")


def main() -> None:
    """Serve each dtype in turn."""
    for port, dtype in enumerate(sys.argv[1:] or ("float32", "bfloat16"), start=50_151):
        command = ["serve", "--port", str(port), "--dtype", dtype, "--log-level", "error"]
        server = subprocess.Popen([sys.executable, "-m", "talkwire", *command])
        try:
            asyncio.run(measure(dtype, port))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
