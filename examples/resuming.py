"""Go on with what broke off as if nothing had happened.

Run `make serve` in another terminal, then `.venv/bin/python examples/resuming.py`. While it
talks, press Ctrl-C twice in the other terminal and serve again; as often as you like.
"""

from talkwire import Client, Retry

# Calls that a server refuses gRPC tries again: after 0.2 s, 0.4 s, ... or when the server says.
retry = Retry(attempts=5, initial=0.2, maximum=10)

with (
    Client(retry=retry, resume=True, connect_timeout=60, temperature=0, max_tokens=300) as client,
    client.stream("Tell me a story about the sea.") as stream,
):
    for chunk in stream:
        print(chunk, end="", flush=True)
answer = stream.answer
print(f"\n{answer.usage.completion_tokens} tokens, {answer.finish_reason}")
