"""Ask and get the whole answer; ask and read it while it is generated.

Run `make serve` in another terminal, then `.venv/bin/python examples/chat.py`.
"""

from talkwire import Client

with Client() as client:  # localhost:50051, or what TALKWIRE_TARGET says
    answer = client.chat("What is the capital of France?", temperature=0)
    print(answer)
    print(f"{answer.usage.completion_tokens} tokens in {answer.timing.total:.2f} s, {answer.model}")

    with client.stream("Tell me a story about the sea.", max_tokens=100) as stream:
        for chunk in stream:
            print(chunk, end="", flush=True)
    print(f"\n{stream.answer.finish_reason}")
