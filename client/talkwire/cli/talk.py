"""A conversation as a terminal needs it: one that survives Ctrl-C. Knows no terminal."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Unpack

from talkwire._answer import Answer
from talkwire._messages import Query
from talkwire._options import Options
from talkwire._request import ChatOptions
from talkwire._sync import Client
from talkwire_proto.v1 import chat_pb2 as pb


class Talk:
    """A conversation, and what became of the last question.

    Attributes:
        client: Where the answers come from.
        conversation: The history, and the options of every turn.
        request: What was sent last, None before that.

    """

    def __init__(self, client: Client, **options: Unpack[ChatOptions]) -> None:
        self.client = client
        self.conversation = client.conversation(**options)
        self.request: pb.ChatRequest | None = None
        self._unanswered: Query | None = None

    @property
    def server(self) -> Options:
        """How the server is reached."""
        return self.client._options

    @property
    def options(self) -> ChatOptions:
        """The options of every turn."""
        return self.conversation.options

    def ask(
        self,
        query: Query,
        show: Callable[[str], None],
        think: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """Show the answer as it is generated; return it, incomplete if Ctrl-C stopped it.

        What was said until then stays in the history. Of a question that got no answer at all,
        stopped or failed, only `take_back` knows.
        """
        options: ChatOptions = {**self.options, "messages": self.conversation.messages}
        request = self.client.request(query, **options)
        self.request, self._unanswered = request, query
        stream = self.client.send_stream(request)
        # Leaving the stream's block is what stops the answer on the server.
        with suppress(KeyboardInterrupt), stream:
            for chunk in stream:
                think(chunk.reasoning)
                show(chunk.text)
        answer = stream.answer
        if answer.complete or answer.text:
            self.conversation.add(query, answer)
            self._unanswered = None
        return answer

    def take_back(self) -> Query | None:
        """Take the last question back, with its answer if it got one; return it."""
        if (query := self._unanswered) is None:
            return self.conversation.undo()
        self._unanswered = None
        return query

    def load(self, path: Path) -> None:
        """Go on with a saved conversation. Raises OSError or ValueError, and changes nothing."""
        self.conversation.load(path)
        self._unanswered = None

    def clear(self) -> None:
        """Forget what was said; the options stay."""
        self.conversation.clear()
        self._unanswered = None
