"""Tells what a medium is by its first bytes. Decodes no pixel of an image and believes no label."""

import re
from io import BytesIO

from PIL import Image

from talkwire_server.media.unreadable import Unreadable

_IMAGES = {
    "PNG": "image/png",
    "JPEG": "image/jpeg",
    "WEBP": "image/webp",
    "GIF": "image/gif",
    "BMP": "image/bmp",
    "TIFF": "image/tiff",
}
_BY_FORMAT = {**_IMAGES, "MPO": "image/jpeg"}  # a JPEG that carries more pictures, as phones do

_MP4 = rb".{4}ftyp(?:iso|mp4|avc1|dash|MSNV|M4|3g)"
_MAGIC = {
    "audio": {
        "audio/wav": rb"RIFF.{4}WAVE",
        "audio/flac": rb"fLaC",
        "audio/ogg": rb"OggS",
        "audio/mpeg": rb"ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb]",  # a tag, or a frame of layer III
        "audio/mp4": _MP4,
    },
    "video": {
        "video/mp4": _MP4,
        "video/quicktime": rb".{4}ftypqt  ",
        "video/webm": rb"\x1a\x45\xdf\xa3.{,60}webm",
        "video/x-msvideo": rb"RIFF.{4}AVI ",
    },
}
_READ = {
    "image": "no PNG, JPEG, WebP, GIF, BMP or TIFF image",
    "audio": "no WAV, FLAC, Ogg, MP3 or M4A sound",
    "video": "no MP4, QuickTime, WebM or AVI film",
}

_OTHER_NAMES = {
    "application/octet-stream": "",
    "image/jpg": "image/jpeg",
    "image/x-ms-bmp": "image/bmp",
    "audio/m4a": "audio/mp4",
    "audio/mp3": "audio/mpeg",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-m4a": "audio/mp4",
    "audio/x-wav": "audio/wav",
    "video/avi": "video/x-msvideo",
    "video/vnd.avi": "video/x-msvideo",
    "video/x-m4v": "video/mp4",
}


class _Header(BytesIO):
    """Bytes that can be read only so many times.

    PIL reads a header piece by piece. One that is all filling would keep it busy for half a
    minute, and the event loop waiting for Python's lock; no picture has that many pieces.
    """

    _left = 4096

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise OSError
        return super().read(size)


def identify(kind: str, data: bytes) -> tuple[str, int]:
    """Return the MIME type of an "image", "audio" or "video", and the pixels of an image, else 0.

    Raises:
        Unreadable: It is not of its kind, or of no format that is taken.

    """
    if kind == "image":
        return _image(data)
    for mime_type, magic in _MAGIC[kind].items():
        if re.match(magic, data, re.DOTALL):
            return mime_type, 0
    raise Unreadable(f"is {_READ[kind]}")


def _image(data: bytes) -> tuple[str, int]:
    try:
        with Image.open(_Header(data), formats=list(_IMAGES)) as image:
            return _BY_FORMAT[image.format or ""], image.width * image.height
    except Image.DecompressionBombError:
        raise Unreadable("has too many pixels") from None
    except Exception:  # PIL's plugins raise whatever a broken file makes them
        raise Unreadable(f"is {_READ['image']}") from None


def contradicts(claim: str, mime_type: str) -> bool:
    """Tell whether a claimed type, of any spelling, is not the one that was found."""
    name = claim.partition(";")[0].strip().lower()
    return _OTHER_NAMES.get(name, name) not in ("", mime_type)


def is_broken(image: bytes) -> bool:
    """Tell whether an image that was identified cannot be decoded; takes time and memory."""
    try:
        with Image.open(BytesIO(image), formats=list(_IMAGES)) as opened:
            opened.load()
    except Exception:  # PIL's decoders, too
        return True
    return False
