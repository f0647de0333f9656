"""A stream: one answer after another for one caller. Knows where it is, and does nothing."""


class Stream:
    """What a caller has at once.

    Attributes:
        proxy: Through which it asks.
        replica: Where it is; -1 for nowhere.
        prompt: Tokens of the present question.
        answer: Tokens of the present answer.
        left: Of these, what it has yet to get; while it gets some: what it had at its begin.
        until: What its replica's clock says when it has them, or the first one.
        asked: When it asked; before 0: before the time began.
        begun: When the engine began with it, where it is.
        first: When it had its first token; 0 for not yet.
        runs: Whether the engine has it, and it does not wait.
        reads: Whether its prompt is being read.
        tries: How often it was refused.
        ticket: Changes whenever it leaves a replica, so that what is kept of it there is void.

    """

    __slots__ = (
        "answer",
        "asked",
        "begun",
        "first",
        "left",
        "prompt",
        "proxy",
        "reads",
        "replica",
        "runs",
        "ticket",
        "tries",
        "until",
    )

    def __init__(self, proxy: int = 0) -> None:
        self.proxy = proxy
        self.replica = -1
        self.prompt = self.answer = self.tries = self.ticket = 0
        self.left = self.until = self.begun = self.first = 0.0
        self.asked = -1.0
        self.runs = self.reads = False

    def ask(self, now: float, prompt: int, answer: int) -> None:
        """Begin anew."""
        self.asked, self.first = now, 0.0
        self.prompt, self.answer, self.left = prompt, answer, float(answer)
        self.tries = 0
