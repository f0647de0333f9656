"""Try again what was refused, and go on with what broke off as if nothing had happened.

Run `make serve` in another terminal, then `.venv/bin/python examples/resuming.py`. While it
talks, press Ctrl-C twice in the other terminal and serve again.
"""

from talkwire import Client, Retry, Unavailable

# gRPC tries refused calls again: after 0.2 s, 0.4 s, ... or when the server asks for it.
retry = Retry(attempts=5, initial=0.2, maximum=10)

with Client(retry=retry, temperature=0, max_tokens=300) as client:
    request = client.request("Tell me a story about the sea.", include={"token_ids": True})
    while True:
        try:
            with client.send_stream(request) as stream:
                for chunk in stream:
                    print(chunk, end="", flush=True)
            break
        except Unavailable as error:
            if error.partial and error.partial.token_ids:
                request.continuation.token_ids.extend(error.partial.token_ids)
            if not client.ready(timeout=60):
                raise
    print()
