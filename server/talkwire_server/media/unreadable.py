"""Why one medium cannot be had or read. Knows not which medium it is."""


class Unreadable(Exception):
    """The text is for the caller's eyes: no path, no address and nothing that a host said."""


class NotKept(Unreadable):
    """The bytes that a `cache_id` names are not here."""

    def __init__(self) -> None:
        super().__init__("nothing is kept under it (any more); send the bytes")
