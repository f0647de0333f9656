"""A conversation that blocks; `_conversation_async.py` is its twin. Calls only its client."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Unpack

from talkwire._answer import Answer
from talkwire._conversation import Transcript
from talkwire._messages import MessageLike, Query
from talkwire._request import CallOptions, ChatOptions
from talkwire._stream_sync import Stream

if TYPE_CHECKING:
    from talkwire._sync import Client


class Conversation(Transcript):
    """A conversation with a client: each turn sends the history and is added to it."""

    def __init__(
        self,
        client: "Client",
        items: Iterable[MessageLike] = (),
        *,
        sticky: bool | str = True,
        **options: Unpack[ChatOptions],
    ) -> None:
        super().__init__(items, sticky=sticky, **options)
        self._client = client

    def send(self, query: Query, **options: Unpack[CallOptions]) -> Answer:
        """Say something, and wait for the whole answer. A failed turn changes nothing."""
        answer = self._client.chat(query, **self._turn(options))
        self.add(query, answer)
        return answer

    @contextmanager
    def stream(
        self, query: Query, *, keep_partial: bool = False, **options: Unpack[CallOptions]
    ) -> Iterator[Stream]:
        """Say something, and get the answer piece by piece.

        The turn is added when the answer has come to its end. One that is left early is added
        with `keep_partial`, if it has any text by then.
        """
        with self._client.stream(query, **self._turn(options)) as stream:
            try:
                yield stream
            finally:
                answer = stream.answer
                if answer.complete or (keep_partial and answer.text):
                    self.add(query, answer)

    def run_tools(
        self, query: Query = "", /, *, limit: int = 10, **options: Unpack[CallOptions]
    ) -> Answer:
        """Say something, run the functions that the answer calls, and go on until one calls none.

        `tools` are functions (needs `talkwire[pydantic]`), called in order with what the model
        gives them, as their annotations understand it. What they return goes back to the model: a
        string as it is, all else as JSON; so does the text of what they raise, and of calls that
        cannot be made. A `tool_choice` that forces a call forces the first answer alone; then it is
        "auto", which asks for a tool parser on the server. With an `output` the last answer is
        made once more, in that form: a model that is held to a form cannot call.

        After `limit` rounds of calls the last answer is returned as it is ("tool_calls"). The
        history holds all that happened; after an `Error`, too, and `run_tools` goes on from there.

        Raises:
            Error: A turn failed.
            TypeError: There are no tools.
            ValueError: A tool is no function that can be called here, or as `request` does.

        """
        tools, first, later, last = self._equip(options, self._client.options, coroutines=False)
        answer = self.send(query, **first)
        for _ in range(limit):
            if answer.finish_reason != "tool_calls":
                break
            for call in self.messages[-1].tool_calls:
                self.messages.append(tools.run(call))
            answer = self.send("", **later)
        if last and answer.finish_reason != "tool_calls":
            self.messages.pop()
            answer = self.send("", **last)
        return answer
