"""Python functions as tools: the model calls them, and answers with what they return.

Run `make serve ARGS="--tool-call-parser hermes"` (or the parser of your model) in another
terminal, then `.venv/bin/python examples/tools.py`.
"""

from typing import Literal

from talkwire import Client


def weather(city: str = "Paris", unit: Literal["celsius", "fahrenheit"] = "celsius") -> str:
    """Tell the weather of a city, today."""
    print(f"weather({city!r}, {unit!r})")
    return f"It is {18 if unit == 'celsius' else 64} degrees {unit} and sunny in {city}."


with Client(temperature=0, max_tokens=100) as client:
    conversation = client.conversation(tools=[weather])
    # Without tool_choice the model chooses whether to call; a small one needs to be told.
    print(conversation.run_tools("What is the weather in Paris?", tool_choice="required"))

    for message in conversation.messages:  # question, call, result, answer
        print(message)
