"""What media may be, whatever way they come: formats, limits, labels, and the bytes kept by key."""

import asyncio
import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any, cast

import pytest
from PIL import Image

from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import (
    InvalidRequest,
    MediaNotFound,
    MediaUnreadable,
    UnsupportedFeature,
)
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings

FORMATS = ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]


def picture(format: str = "PNG", size: tuple[int, int] = (8, 8), **options: Any) -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").resize(size).convert("RGB").save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """Make a small PNG of a large black square."""
    packer = zlib.compressobj(9)
    rows = [packer.compress(bytes(side // 8 + 1)) for _ in range(side)]
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", b"".join([*rows, packer.flush()]))
    return b"\x89PNG\r\n\x1a\n" + body + chunk(b"IEND", b"")


def ask(*media: dict[str, Any], kind: str = "image", salt: str = "") -> pb.ChatRequest:
    """Make a request: a text, then media."""
    parts = [{"text": "What is it?"}, *({kind: medium} for medium in media)]
    return make(pb.ChatRequest, messages=[{"parts": parts}], cache_salt=salt)


def store(**settings: Any) -> MediaStore:
    return MediaStore(Settings(**settings))


async def resolved(media: MediaStore, request: pb.ChatRequest) -> list[pb.Media]:
    answer = await media.resolve(request)
    parts = [part for message in answer.messages for part in message.parts]
    return [getattr(p, cast(Any, kind)) for p in parts if (kind := p.WhichOneof("part")) != "text"]


async def faults(media: MediaStore, request: pb.ChatRequest) -> dict[str, str]:
    with pytest.raises(MediaUnreadable) as refused:
        await media.resolve(request)
    return {v.field: v.description for v in refused.value.violations}


def data_uri(data: bytes, claim: str = "image/png") -> str:
    return f"data:{claim};base64,{base64.b64encode(data).decode()}"


# What comes out


async def test_a_request_without_media_is_returned_as_it_is() -> None:
    """Plain text costs nothing: not even a copy."""
    request = make(pb.ChatRequest, query="hi", messages=[{"text": "a"}, {"parts": [{"text": "b"}]}])

    assert await store().resolve(request) is request


async def test_media_become_bytes_with_their_type_in_order() -> None:
    """Every medium has `data` and `mime_type` afterwards, and the request came to no harm."""
    images = [picture(name) for name in FORMATS]
    first, *others = images
    request = make(
        pb.ChatRequest,
        model="m",
        messages=[
            {"parts": [{"image": {"data": first, "cache_key": "k"}}, {"text": "and"}]},
            {"role": pb.ROLE_ASSISTANT, "text": "yes?"},
            {"parts": [{"image": {"uri": data_uri(data, "")}} for data in others]},
        ],
    )
    before = request.SerializeToString()

    answer = await store().resolve(request)

    types = [f"image/{name.lower()}" for name in FORMATS]
    assert answer == make(
        pb.ChatRequest,
        model="m",
        messages=[
            {"parts": [{"image": {"data": first, "mime_type": types[0]}}, {"text": "and"}]},
            {"role": pb.ROLE_ASSISTANT, "text": "yes?"},
            {
                "parts": [
                    {"image": {"data": data, "mime_type": name}}
                    for data, name in zip(others, types[1:], strict=True)
                ]
            },
        ],
    )
    assert request.SerializeToString() == before


SOUNDS = {
    "audio/wav": [b"RIFF\x24\0\0\0WAVEfmt "],
    "audio/flac": [b"fLaC\0\0\0\x22"],
    "audio/ogg": [b"OggS\0\2"],
    "audio/mpeg": [b"ID3\4\0", b"\xff\xfb\x90\x64", b"\xff\xf3\x40\xc0"],
    "audio/mp4": [b"\0\0\0\x1cftypM4A \0\0\0\0"],
}
FILMS = {
    "video/mp4": [b"\0\0\0\x20ftypisom\0\0\2\0", b"\0\0\0\x18ftypmp42\0\0\0\0"],
    "video/quicktime": [b"\0\0\0\x14ftypqt  \0\0\2\0"],
    "video/webm": [b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\x82\x84webm"],
    "video/x-msvideo": [b"RIFF\x24\0\0\0AVI LIST"],
}


@pytest.mark.parametrize(("kind", "magic"), [("audio", SOUNDS), ("video", FILMS)])
async def test_sounds_and_films_are_told_by_their_first_bytes(
    kind: str, magic: dict[str, list[bytes]]
) -> None:
    """Each format that is taken is recognized."""
    for mime_type, heads in magic.items():
        for head in heads:
            (medium,) = await resolved(store(), ask({"data": head + bytes(64)}, kind=kind))

            assert medium.mime_type == mime_type


async def test_a_medium_is_what_its_part_says() -> None:
    """A picture is no sound, a sound no film, and so on."""
    request = make(
        pb.ChatRequest,
        messages=[
            {
                "parts": [
                    {"image": {"data": SOUNDS["audio/wav"][0]}},
                    {"audio": {"data": picture()}},
                    {"video": {"data": SOUNDS["audio/flac"][0]}},
                    {"video": {"data": b"\0\0\0\x1cftypavif\0\0\0\0"}},
                    {"image": {}},
                ]
            }
        ],
    )

    assert await faults(store(), request) == {
        "messages[0].parts[0].image.data": "is no PNG, JPEG, WebP, GIF, BMP or TIFF image",
        "messages[0].parts[1].audio.data": "is no WAV, FLAC, Ogg, MP3 or M4A sound",
        "messages[0].parts[2].video.data": "is no MP4, QuickTime, WebM or AVI film",
        "messages[0].parts[3].video.data": "is no MP4, QuickTime, WebM or AVI film",
        "messages[0].parts[4].image": "needs data, a uri or a cache_id",
    }


# Images


async def test_pictures_of_many_frames_are_taken() -> None:
    """A film in GIF, WebP or TIFF, or a phone's JPEG of several pictures, is an image."""
    more = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    expected = {"GIF": "gif", "WEBP": "webp", "TIFF": "tiff", "MPO": "jpeg"}
    for container, name in expected.items():
        data = picture(container, save_all=True, append_images=more)
        (medium,) = await resolved(store(), ask({"data": data}))

        assert medium.mime_type == f"image/{name}"
        assert medium.data == data


@pytest.mark.parametrize("format", ["EPS", "ICO", "PCX", "PPM", "TGA", "PDF"])
async def test_other_formats_are_refused(format: str) -> None:
    """What PIL could open besides, some of it with other programs, is not opened."""
    found = await faults(store(), ask({"data": picture(format)}))

    assert found == {
        "messages[0].parts[1].image.data": "is no PNG, JPEG, WebP, GIF, BMP or TIFF image"
    }


@pytest.mark.parametrize("format", FORMATS)
async def test_no_beginning_of_a_picture_is_an_accident(format: str) -> None:
    """Cut anywhere, a picture is either known by its header or refused; nothing else happens."""
    data = picture(format)
    known = {(await store().resolve(ask({"data": data}))).messages[0].parts[1].image.mime_type}
    seen = set()
    for length in range(0, len(data), 7):
        try:
            resolved = await store().resolve(ask({"data": data[:length]}))
        except MediaUnreadable as refused:
            seen |= {v.field for v in refused.violations}
        else:
            seen.add(resolved.messages[0].parts[1].image.mime_type)

    refusal = {"messages[0].parts[1].image.data"}
    assert refusal <= seen <= refusal | known


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
async def test_a_broken_picture_is_named_after_the_fact(format: str) -> None:
    """Only decoding shows a body that is cut; `explain` then says which picture it is."""
    whole = picture(format, (64, 64))
    media = store()
    request = ask({"data": whole}, {"data": whole[: len(whole) * 3 // 4]})
    if format == "WEBP":  # its header says how long it is
        assert list(await faults(media, request)) == ["messages[0].parts[2].image.data"]
        return

    broken = await media.explain(await media.resolve(request))

    assert [(v.field, v.description) for v in broken] == [
        ("messages[0].parts[2].image", "is truncated or broken")
    ]
    assert await media.explain(await media.resolve(ask({"data": whole}))) == []


async def test_a_picture_may_break_in_any_way() -> None:
    """PIL raises a SyntaxError for a PNG that goes wrong between its chunks; that is found, too."""
    whole = picture(size=(64, 64))
    start = whole.index(b"IDAT") + 4
    broken = whole[: start - 8] + chunk(b"IDAT", whole[start : start + 20]) + chunk(bytes(4), b"")
    media = store()

    (fault,) = await media.explain(await media.resolve(ask({"data": broken})))

    assert fault.field == "messages[0].parts[1].image"


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
async def test_a_decompression_bomb_is_refused_by_its_header() -> None:
    """17 KB that would be 144 million pixels cost nothing, nor does what is larger still."""
    media = store()
    small, large = bomb(12_000), bomb(20_000)
    assert len(small) < 18_000
    before = resident()
    found = await faults(media, ask({"data": small}, {"data": large}))

    assert found == {
        "messages[0].parts[1].image.data": "has more than 32000000 pixels",
        "messages[0].parts[2].image.data": "has too many pixels",
    }
    assert resident() - before < 10e6


def resident() -> int:
    """Return how many bytes of memory this process has."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\xff\xd8" + b"\xff" * (15 << 20), id="jpeg"),
        pytest.param(picture()[:33] + chunk(b"abCd", b"") * (1 << 20), id="png"),
        pytest.param(b"GIF89a\1\0\1\0\0\0\0" + b"\x21\xfe\1c\0" * (3 << 20), id="gif"),
    ],
)
async def test_a_header_without_end_is_given_up(data: bytes) -> None:
    """Megabytes of filling, which PIL would read for many seconds, are refused at once."""
    async with asyncio.timeout(3):
        found = await faults(store(), ask({"data": data}))

    assert list(found) == ["messages[0].parts[1].image.data"]


# Labels


async def test_a_label_must_be_true() -> None:
    """A declared type, in its field or in the URI, that the bytes contradict is an error."""
    png = picture()
    found = await faults(
        store(),
        ask(
            {"data": png, "mime_type": "image/jpeg"},
            {"data": png, "mime_type": "x" * 200},
            {"uri": data_uri(png, "image/webp")},
            {"uri": data_uri(png, "image/png"), "mime_type": "text/plain"},
        ),
    )

    assert found == {
        "messages[0].parts[1].image.mime_type": "says image/jpeg, but is image/png",
        "messages[0].parts[2].image.mime_type": f"says {'x' * 31}…, but is image/png",
        "messages[0].parts[3].image.uri": "says image/webp, but is image/png",
        "messages[0].parts[4].image.mime_type": "says text/plain, but is image/png",
    }


@pytest.mark.parametrize(
    ("kind", "label", "mime_type"),
    [
        ("image", "image/png", "image/png"),
        ("image", "IMAGE/PNG; q=1", "image/png"),
        ("image", "application/octet-stream", "image/png"),
        ("audio", "audio/x-wav", "audio/wav"),
        ("audio", "audio/mp3", "audio/mpeg"),
        ("video", "video/avi", "video/x-msvideo"),
    ],
)
async def test_labels_have_many_spellings(kind: str, label: str, mime_type: str) -> None:
    """Common names of a type are that type, and the answer has the proper one."""
    data = {"image/png": [picture()], **SOUNDS, **FILMS}[mime_type][0]

    assert await resolved(store(), ask({"data": data, "mime_type": label}, kind=kind)) == [
        pb.Media(data=data, mime_type=mime_type)
    ]


# data: URIs


async def test_data_uris_are_decoded() -> None:
    """Base64 and percent-encoding, in any case and with parameters, give the same bytes."""
    png = picture()
    text = base64.b64encode(png).decode()
    escaped = "".join(f"%{byte:02x}" for byte in png)
    for uri in (
        f"data:image/png;base64,{text}",
        f"data:;base64,{text}",
        f"DATA:image/png;name=a.png;BASE64,{text}",
        f"data:image/png;base64,{text.replace('+', '%2B').replace('/', '%2f').replace('=', '%3D')}",
        f"data:image/png,{escaped}",
        f"data:,{escaped}",
    ):
        (medium,) = await resolved(store(), ask({"uri": uri}))

        assert medium == pb.Media(data=png, mime_type="image/png")


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("data:image/png;base64", "is no data: URI: it has no comma"),
        ("data:image/png;base64,", "is no PNG, JPEG, WebP, GIF, BMP or TIFF image"),
        ("data:image/png;base64,AA", "is not valid base64"),
        ("data:image/png;base64,AAAA====", "is not valid base64"),
        ("data:image/png;base64,AA\nAA", "is not valid base64"),
        ("data:image/png;base64, AAAA", "is not valid base64"),
        ("data:image/png;base64,AA-_", "is not valid base64"),
        ("data:image/png;base64,ÄÄÄÄ", "is not valid base64"),
        ("data:image/png;base64,%41%4", "is not valid percent-encoding"),
        ("data:image/png,%zz", "is not valid percent-encoding"),
        ("data:image/png,a b", "is not valid percent-encoding"),
        ("data:image/png,ä", "is not valid percent-encoding"),
    ],
)
async def test_data_uris_are_read_strictly(uri: str, fault: str) -> None:
    """Nothing is skipped or guessed in a malformed `data:` URI."""
    assert await faults(store(), ask({"uri": uri})) == {"messages[0].parts[1].image.uri": fault}


# Limits


async def test_bytes_are_limited_each_and_in_all() -> None:
    """A medium has a largest size, and a request four times that, however it is sent."""
    data = picture()
    media = store(max_media_bytes=len(data))
    escaped = "".join(f"%{byte:02x}" for byte in data)
    more = data + b"\0"
    limit = f"has more than {len(data)} bytes"

    assert await faults(
        media,
        ask(
            {"data": more},
            {"uri": data_uri(more + b"\0\0")},
            {"uri": f"data:,{escaped}%00"},
            {"uri": "data:;base64," + "?" * 2 * len(data)},
            {"data": data},
            {"uri": data_uri(data)},
            {"uri": f"data:,{escaped}"},
        ),
    ) == {
        "messages[0].parts[1].image.data": limit,
        "messages[0].parts[2].image.uri": limit,
        "messages[0].parts[3].image.uri": limit,
        "messages[0].parts[4].image.uri": limit,  # not decoded first
    }
    assert len(await resolved(media, ask(*[{"data": data}] * 4))) == 4
    assert await faults(media, ask(*[{"data": data}] * 5)) == {
        "messages[0].parts[5].image.data": f"brings the request to more than {4 * len(data)} bytes"
    }


async def test_pixels_are_limited_each_and_in_all() -> None:
    """An image has a largest number of pixels, and a request four times that."""
    media = store(max_image_pixels=64)

    assert await faults(media, ask({"data": picture(size=(13, 5))})) == {
        "messages[0].parts[1].image.data": "has more than 64 pixels"
    }
    assert len(await resolved(media, ask(*[{"data": picture()}] * 4))) == 4
    assert list((await faults(media, ask(*[{"data": picture()}] * 5))).values()) == [
        "brings the request to more than 256 pixels"
    ]


async def test_what_all_media_may_have_is_the_operators_to_say() -> None:
    """How many there may be, and how many times the largest one."""
    data = picture()
    media = store(max_media=3, max_media_bytes=len(data), media_total=2)

    assert len(await resolved(media, ask(*[{"data": data}] * 2))) == 2
    assert await faults(media, ask(*[{"data": data}] * 3)) == {
        "messages[0].parts[3].image.data": f"brings the request to more than {2 * len(data)} bytes"
    }
    with pytest.raises(InvalidRequest, match="more than 3 media in a request"):
        await media.resolve(ask(*[{"data": data}] * 4))


async def test_the_number_of_media_is_limited() -> None:
    """What is too many is refused before any is looked at."""
    media = store()
    request = ask(*[{"data": b"?"}] * 256, *[{"uri": "https://example.com"}] * 20_000)
    with pytest.raises(InvalidRequest) as refused:
        await media.resolve(request)

    assert [v.field for v in refused.value.violations] == ["messages[0].parts[257].image"]
    assert media.unsupported(request) == []


async def test_references_do_not_multiply() -> None:
    """A small request cannot make a thousand copies of what is kept."""
    data = picture()
    media = store(max_media_bytes=len(data))
    await media.resolve(ask({"data": data, "cache_key": "k"}))

    assert len(await faults(media, ask(*[{"cache_id": "k"}] * 100))) > 16


# The cache


async def test_what_was_sent_under_a_key_need_not_be_sent_again() -> None:
    """`cache_id` stands for the bytes, and for those that were sent last."""
    media = store()
    red, blue = picture(size=(3, 3)), picture(size=(4, 4))
    await media.resolve(
        ask({"data": red, "cache_key": "a"}, {"uri": data_uri(red), "cache_key": "b"})
    )
    await media.resolve(ask({"data": blue, "cache_key": "a"}))

    found = await resolved(media, ask({"cache_id": "a"}, {"cache_id": "b"}))

    assert found == [
        pb.Media(data=blue, mime_type="image/png"),
        pb.Media(data=red, mime_type="image/png"),
    ]


async def test_what_is_not_kept_is_named() -> None:
    """Unknown ids are NOT_FOUND, all of them; with other faults beside them all are unreadable."""
    media = store()
    unknown: list[dict[str, Any]] = [{"cache_id": "a"}, {"data": picture()}, {"cache_id": "b"}]
    with pytest.raises(MediaNotFound) as refused:
        await media.resolve(ask(*unknown))

    paths = ["messages[0].parts[1].image.cache_id", "messages[0].parts[3].image.cache_id"]
    assert [v.field for v in refused.value.violations] == paths
    found = await faults(media, ask(*unknown, {"data": b"?"}))
    assert list(found) == [*paths, "messages[0].parts[4].image.data"]


async def test_callers_with_other_salts_never_meet() -> None:
    """A key is known only together with the salt that it was sent with."""
    media = store()
    await media.resolve(ask({"data": picture(), "cache_key": "bc"}, salt="a"))
    for salt, key in (("", "bc"), ("b", "bc"), ("ab", "c"), ("", "abc")):
        with pytest.raises(MediaNotFound):
            await media.resolve(ask({"cache_id": key}, salt=salt))

    assert await resolved(media, ask({"cache_id": "bc"}, salt="a"))


async def test_the_least_recently_used_goes_first() -> None:
    """Kept bytes are bounded; what does not fit at all is not kept, nor is what it replaced."""
    data = picture()
    media = store(media_cache_bytes=2 * (len(data) + 1024))
    for key in ("a", "b"):
        await media.resolve(ask({"data": data, "cache_key": key}))
    await media.resolve(ask({"cache_id": "a"}))
    await media.resolve(ask({"data": data, "cache_key": "c"}))

    assert len(await resolved(media, ask({"cache_id": "a"}, {"cache_id": "c"}))) == 2
    with pytest.raises(MediaNotFound):
        await media.resolve(ask({"cache_id": "b"}))
    await media.resolve(ask({"data": data + bytes(8192), "cache_key": "a"}))
    with pytest.raises(MediaNotFound):
        await media.resolve(ask({"cache_id": "a"}))


async def test_only_what_is_readable_is_kept() -> None:
    """Bytes that were refused are not there under their key."""
    media = store()
    await faults(media, ask({"data": b"?", "cache_key": "a"}))
    await faults(media, ask({"data": picture(), "mime_type": "text/plain", "cache_key": "a"}))

    with pytest.raises(MediaNotFound):
        await media.resolve(ask({"cache_id": "a"}))


async def test_a_server_that_keeps_nothing_says_so() -> None:
    """Without memory for it, `cache_key` and `cache_id` are refused by name."""
    media = store(media_cache_bytes=0)
    request = ask({"data": picture(), "cache_key": "k"}, {"cache_id": "k"})

    names = ["messages[0].parts[1].image.cache_key", "messages[0].parts[2].image.cache_id"]
    assert media.unsupported(request) == names
    with pytest.raises(UnsupportedFeature):
        await media.resolve(request)
