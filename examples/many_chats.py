"""A hundred chats at once, over one connection; vLLM computes them together.

Run `make serve` in another terminal, then `.venv/bin/python examples/many_chats.py`.
"""

import asyncio
from time import perf_counter

from talkwire import AsyncClient


async def main() -> None:
    """Ask everything, then look at the answers; one that failed would have cancelled the others."""
    begin = perf_counter()
    async with AsyncClient(temperature=0, max_tokens=16) as client, asyncio.TaskGroup() as group:
        chats = [group.create_task(client.chat(f"What is {n} plus {n}?")) for n in range(100)]
    seconds = perf_counter() - begin

    answers = [chat.result() for chat in chats]
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    print(f"{len(answers)} answers, {tokens / seconds:.0f} tokens a second; one of them:")
    print(answers[21])


asyncio.run(main())
