"""Images, sounds and films, as both clients send them."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow

import talkwire
from support import RunningServer, calling
from talkwire import Audio, Image, Video
from talkwire_proto.v1 import chat_pb2 as pb


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    """Its name tells the MIME type, if it is one of the kind; the bytes are the file's."""
    for kind, name, mime_type in [
        (Image, "a.png", "image/png"),
        (Image, "a.JPG", "image/jpeg"),
        (Image, "a.txt", ""),
        (Image, "a", ""),
        (Audio, "a.mp3", "audio/mpeg"),
        (Audio, "a.mp4", ""),
        (Video, "a.mp4", "video/mp4"),
    ]:
        path = tmp_path / name
        path.write_bytes(b"bytes")
        for given in (path, str(path)):
            made = kind.from_file(given, cache_key="k").proto
            assert made == pb.Media(data=b"bytes", mime_type=mime_type, cache_key="k")
    with pytest.raises(FileNotFoundError):
        Image.from_file(tmp_path / "missing.png")


def test_other_sources() -> None:
    """Bytes, URIs, and what was sent before."""
    assert Audio(b"a", mime_type="audio/x").proto == pb.Media(data=b"a", mime_type="audio/x")
    assert Image.from_uri("https://a/b", cache_key="k").proto == pb.Media(
        uri="https://a/b", cache_key="k"
    )
    assert Video.cached("k").proto == pb.Media(cache_id="k")
    assert [repr(Image(b"abc", mime_type="image/x")), repr(Image.cached("k"))] == [
        "<Image image/x 3 bytes>",
        "<Image k>",
    ]


def test_an_image_of_pils_is_sent_as_png() -> None:
    """Without loss, and without PIL being needed by the client."""
    image = Pillow.new("RGB", (2, 2), "red")
    made = Image(image, cache_key="k").proto

    assert (made.mime_type, made.cache_key) == ("image/png", "k")
    assert made.data.startswith(b"\x89PNG")


async def test_parts_arrive_in_order(client: Any) -> None:
    """The echo engine says what it was sent; so it does for a message of the history."""
    parts = ["What is", Image(b"x" * 68, mime_type="image/png"), "and", Audio(b"y")]
    said = "What is\n[image/png 68 bytes]\nand\n[audio 1 bytes]"

    assert (await client.chat(parts)).text == said
    answer = await client.chat(messages=[{"parts": parts}])
    assert answer.text == said
    assert answer.usage.media_tokens == 2


async def test_a_conversation_keeps_its_media(kind: str, echo: RunningServer) -> None:
    """The question is in the history as it was asked, and `undo` returns it."""
    async with calling(kind, echo.target) as caller:
        conversation = caller.client.conversation()
        image = Image(b"x", mime_type="image/png")
        conversation.add(["see", image], await caller.chat(["see", image]))
        assert [part.WhichOneof("part") for part in conversation.messages[0].parts] == [
            *("text", "image")
        ]
        taken = conversation.undo()

        assert conversation.messages == []
        assert (await caller.chat(taken)).text == "see\n[image/png 1 bytes]"


async def test_what_the_server_lacks_is_refused_by_name(client: Any) -> None:
    """The path of the field is in the message."""
    with pytest.raises(talkwire.Unsupported, match=r"messages\[0\]\.parts\[0\]\.image\.uri"):
        await client.chat([Image.from_uri("https://localhost/a.png")])
