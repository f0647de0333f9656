"""What the log says, and how."""

from dataclasses import dataclass
from typing import Literal

from talkwire_server.settings.flag import Group, flag


@dataclass(frozen=True, kw_only=True)
class LogSettings(Group):
    """Log."""

    log_level: Literal["debug", "info", "warning", "error"] = flag(
        "info", "of our log; at debug of vLLM's, too, whose advice at the start is else left out"
    )
    log_format: Literal["text", "json"] = flag("text", "lines for people, or one of JSON each")
    log_chats: bool = flag(True, "log a line at the end of each chat, at level info")
    log_texts: bool = flag(False, "log the texts of exceptions, too, which may quote requests")
