"""Images, sounds and films that a message may hold. Reads files, but fetches no URI."""

from io import BytesIO
from mimetypes import guess_type
from pathlib import Path
from typing import ClassVar, Protocol, Self

from talkwire_proto.v1 import chat_pb2 as pb


class Media:
    """An encoded file, as a part of a message. Use `Image`, `Audio` or `Video`.

    Args:
        data: The bytes of the encoded file.
        mime_type: Such as "image/png"; by default the server looks at the bytes.
        cache_key: A name under which the server shall keep it, for `cached`.

    Attributes:
        proto: The message that is sent.

    """

    kind: ClassVar[str]  # its field of pb.Part, and the first half of its MIME types

    def __init__(self, data: bytes, /, *, mime_type: str = "", cache_key: str = "") -> None:
        self.proto = pb.Media(data=data, mime_type=mime_type, cache_key=cache_key)

    @classmethod
    def from_file(cls, path: str | Path, *, cache_key: str = "") -> Self:
        """Read a file; its name tells the MIME type. Raises OSError."""
        guess = guess_type(str(path))[0] or ""
        mime_type = guess if guess.startswith(f"{cls.kind}/") else ""
        data = Path(path).read_bytes()
        return cls._of(pb.Media(data=data, mime_type=mime_type, cache_key=cache_key))

    @classmethod
    def from_uri(cls, uri: str, *, cache_key: str = "") -> Self:
        """Name a `data:` or `https:` URI, which the server reads if its operator allows that."""
        return cls._of(pb.Media(uri=uri, cache_key=cache_key))

    @classmethod
    def cached(cls, id: str) -> Self:
        """Name what was sent before with this `cache_key`.

        The call raises `MediaNotFound` when the server has it no more.
        """
        return cls._of(pb.Media(cache_id=id))

    @classmethod
    def _of(cls, proto: pb.Media) -> Self:
        made = cls.__new__(cls)
        made.proto = proto
        return made

    def __repr__(self) -> str:
        proto = self.proto
        source = proto.uri[:80] or proto.cache_id or f"{len(proto.data)} bytes"
        return f"<{type(self).__name__} {' '.join(filter(None, [proto.mime_type, source]))}>"


class Picture(Protocol):
    """What can be written as a PNG file: an image of PIL's."""

    def save(self, fp: BytesIO, format: str) -> object:
        """Write it."""
        ...


class Image(Media):
    """A picture: the bytes of an encoded file, or an image of PIL's, which is sent as PNG."""

    kind = "image"

    def __init__(
        self, data: bytes | Picture, /, *, mime_type: str = "", cache_key: str = ""
    ) -> None:
        if not isinstance(data, bytes):
            file = BytesIO()
            data.save(file, format="PNG")
            data, mime_type = file.getvalue(), "image/png"
        super().__init__(data, mime_type=mime_type, cache_key=cache_key)


class Audio(Media):
    """A sound: the bytes of an encoded file."""

    kind = "audio"


class Video(Media):
    """A film: the bytes of an encoded file."""

    kind = "video"
