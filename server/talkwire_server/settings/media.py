"""Where media may come from, and how large they may be."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from talkwire_server.settings.flag import Group, flag

_HOST = re.compile(r"(https?://)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class MediaSettings(Group):
    """Images, sound and film."""

    # What is not on the public internet is listed by its address, beside its name if it has one.
    allowed_media_domains: tuple[str, ...] = flag(
        (), "where media may be fetched from: example.com, http://10.0.0.5:8080", metavar="HOST"
    )
    allowed_local_media_path: str | None = flag(
        None, "folder that file: URIs may be read from", metavar="DIR"
    )
    media_timeout: float = flag(5.0, "for the fetches of a request", above=0, metavar="S")
    max_media: int = flag(256, "media of a request", at_least=0)
    max_media_bytes: int = flag(16 << 20, "largest medium", at_least=1)
    max_image_pixels: int = flag(32_000_000, "largest image", at_least=1)
    media_total: int = flag(
        4, "times so many bytes, and pixels, have all media of a request", at_least=1
    )
    media_cache_bytes: int = flag(
        256 << 20, "memory for media kept by cache_key; 0 keeps none", at_least=0
    )

    def faults(self) -> Iterator[str]:
        """Find what is no host and no folder."""
        if not all(map(_HOST.fullmatch, self.allowed_media_domains)):
            yield "--allowed-media-domains takes hosts, like example.com or http://10.0.0.5:8080"
        if not Path(self.allowed_local_media_path or ".").is_dir():
            yield "--allowed-local-media-path must be a folder"
