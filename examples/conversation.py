"""A conversation: it remembers, takes back, goes two ways, and can be kept in a file.

Run `make serve` in another terminal, then `.venv/bin/python examples/conversation.py`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from talkwire import Client

with Client(temperature=0, max_tokens=50) as client:
    conversation = client.conversation(system="Be brief.")
    print(conversation.send("What is the capital of France?"))
    with conversation.stream("And of Italy?") as stream:
        for chunk in stream:
            print(chunk, end="", flush=True)
    print()

    print("taken back:", conversation.undo())
    fork = conversation.fork()
    print(fork.send("And of Germany?"))
    print(f"{len(conversation.messages)} messages here, {len(fork.messages)} there")

    with TemporaryDirectory() as folder:
        file = Path(folder) / "conversation.jsonl"
        fork.save(file)  # one message as JSON a line, the system prompt first
        conversation.load(file)
    print(f"{len(conversation.messages)} messages here, {fork.usage.completion_tokens} tokens said")
