"""Try again what was refused, and go on with what broke off as if nothing had happened.

Run `make serve` in another terminal, then `.venv/bin/python examples/resuming.py`. While it
talks, press Ctrl-C twice in the other terminal and serve again; as often as you like.
"""

from talkwire import Client, Retry, Unavailable

# gRPC tries refused calls again: after 0.2 s, 0.4 s, ... or when the server asks for it.
retry = Retry(attempts=5, initial=0.2, maximum=10)

answer = None
with Client(retry=retry, temperature=0, max_tokens=300, include={"token_ids": True}) as client:
    while answer is None or not answer.complete:
        try:
            with client.stream("Tell me a story about the sea.", continuation=answer) as stream:
                for chunk in stream:
                    print(chunk, end="", flush=True)
            answer = stream.answer
        except Unavailable as error:
            answer = error.partial
            if not client.ready(timeout=60):
                raise
print(f"\n{answer.usage.completion_tokens} tokens, {answer.finish_reason}")
