"""Decodes `data:` URIs (RFC 2397). Knows not what the bytes are."""

import re
from binascii import a2b_qp

import pybase64

from talkwire_server.media.unreadable import Unreadable

_ESCAPED = re.compile(r"(?:%[0-9A-Fa-f]{2}|[!-$&-~]){1,65536}+")


def decode(uri: str, most: int) -> tuple[str, bytes]:
    """Return the type that the URI claims, which may be empty, and its bytes.

    Raises:
        Unreadable: It is malformed, or its bytes are more than `most`.

    """
    header, comma, payload = uri.partition(":")[2].partition(",")
    if not comma:
        raise Unreadable("is no data: URI: it has no comma")
    claim, *parameters = header.split(";")
    encoded = bool(parameters) and parameters[-1].lower() == "base64"
    size = len(payload) - 2 * payload.count("%")
    if (size * 3 // 4 - 2 if encoded else size) > most:
        raise Unreadable(f"has more than {most} bytes")
    if not encoded:
        return claim, _unescaped(payload)
    try:
        text = _unescaped(payload) if "%" in payload else payload
        return claim, pybase64.b64decode(text, validate=True)
    except ValueError:
        raise Unreadable("is not valid base64") from None


def _unescaped(text: str) -> bytes:
    """Decode percent signs piece by piece, as quoted-printable, which Python decodes in C."""
    result = bytearray()
    end = 0
    while end < len(text):
        piece = _ESCAPED.match(text, end)
        if not piece:
            raise Unreadable("is not valid percent-encoding")
        result += a2b_qp(piece[0].replace("=", "%3D").replace("%", "="))
        end = piece.end()
    return bytes(result)
