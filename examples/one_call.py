"""Two hundred streams over one call of one connection; each is read and left by itself.

Run `make serve` in another terminal, then `.venv/bin/python examples/one_call.py`.
"""

import asyncio

from talkwire import Answer, AsyncClient


async def ask(client: AsyncClient, number: int) -> Answer:
    """Read an answer as it comes; who leaves its block ends it, and no other."""
    async with client.stream(
        f"What is {number} plus {number}?", chunking={"min_chars": 20}
    ) as stream:
        async for _ in stream:
            if number == 0:
                break
    return stream.answer


async def main() -> None:
    """Ask all at once. `multiplex=True` is all that it takes."""
    async with AsyncClient(multiplex=True, temperature=0, max_tokens=16) as client:
        answers = await asyncio.gather(*(ask(client, number) for number in range(200)))

    whole = [answer for answer in answers if answer.complete]
    print(f"{len(whole)} whole answers, {len(answers) - len(whole)} left")
    print(answers[21])


asyncio.run(main())
