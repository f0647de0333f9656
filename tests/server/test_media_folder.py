"""Media from the server's disk: what is below the operator's folder, and nothing else."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from support import make
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_server.errors import MediaUnreadable
from talkwire_server.media import MediaStore
from talkwire_server.settings import Settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An allowed folder with a picture, beside one that is not, with another."""
    for name in ("allowed", "allowed-not"):
        (tmp_path / name / "deep").mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / name / "deep" / "a b%.png", "PNG")
    return tmp_path / "allowed"


def ask(*uris: str) -> pb.ChatRequest:
    parts = [{"image": {"uri": uri}} for uri in uris]
    return make(pb.ChatRequest, messages=[{"parts": parts}])


def store(folder: Path | str, **settings: Any) -> MediaStore:
    return MediaStore(Settings(allowed_local_media_path=str(folder), **settings))


async def faults(media: MediaStore, *uris: str) -> list[str]:
    """Return what is wrong with each; all must be."""
    with pytest.raises(MediaUnreadable) as refused:
        await media.resolve(ask(*uris))
    paths = [f"messages[0].parts[{i}].image.uri" for i in range(len(uris))]
    assert [v.field for v in refused.value.violations] == paths
    return [v.description for v in refused.value.violations]


async def test_files_below_the_folder_are_read(folder: Path) -> None:
    """By their URI, also with dots, a host of localhost, and links that stay inside."""
    picture = folder / "deep" / "a b%.png"
    (folder / "link.png").symlink_to(picture)
    (folder / "loop").symlink_to(folder)
    uris = [
        picture.as_uri(),
        f"FILE://localhost{folder}/deep/a%20b%25.png",
        f"file:{folder}/deep/../deep/./a%20b%25.png",
        f"file://{folder}/link.png",
        f"file://{folder}/loop/loop/deep/a%20b%25.png",
    ]

    answer = await store(folder).resolve(ask(*uris))

    image = pb.Media(data=picture.read_bytes(), mime_type="image/png")
    assert [part.image for part in answer.messages[0].parts] == [image] * len(uris)


async def test_the_folder_may_be_named_in_many_ways(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative, with dots, or through a link, whose name the URIs then have."""
    monkeypatch.chdir(folder)
    (folder.parent / "link").symlink_to(folder)
    file = "deep/a%20b%25.png"
    for name in (".", "../allowed", "deep/.."):
        assert await store(name).resolve(ask(f"file://{folder}/{file}"))

    assert await store("../link").resolve(ask(f"file://{folder.parent}/link/{file}"))


async def test_nothing_else_is_read_and_nothing_is_told(folder: Path) -> None:
    """Whatever is there and whatever it is, from outside it all looks the same."""
    outside = folder.parent / "allowed-not" / "deep" / "a b%.png"
    (folder / "out.png").symlink_to(outside)
    (folder / "out").symlink_to(outside.parent)
    (folder.parent / "in").symlink_to(folder)
    (folder / "self").symlink_to(folder / "self")
    (folder / "dangling").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe")
    uris = [
        f"file://{folder}/none.png",
        f"file://{folder}/out.png",
        f"file://{folder}/out/a%20b%25.png",
        f"file://{folder}/self",
        f"file://{folder}/dangling",
        f"file://{folder}/pipe",
        f"file://{folder}/deep",
        f"file://{folder}",
        f"file://{folder}/deep/a%20b%25.png/x",
        f"file://{folder}/deep/a%20b%25.png%00",
        f"file://{folder}/{'x' * 300}",
        f"file://{folder}/%ff",
        outside.as_uri(),
        f"file://{folder.parent}/in/deep/a%20b%25.png",
        f"file://{folder}/../allowed-not/deep/a%20b%25.png",
        f"file://{folder}/%2e%2e/allowed-not/deep/a%20b%25.png",
        f"file://{folder}/..%2fallowed-not/deep/a%20b%25.png",
        "file:///etc/passwd",
        "file:////etc/passwd",
        "file:///proc/self/environ",
        "file:///dev/zero",
        "file:///no/such/file",
        "file://",
        "file:",
        "file:relative.png",
        f"file://evil.example{folder}/deep/a%20b%25.png",
        f"file://{folder}/deep/a%20b%25.png?x",
        f"file://{folder}/deep/a%20b%25.png#x",
        "file://[/x",
    ]
    async with asyncio.timeout(10):
        found = await faults(store(folder), *uris)

    assert set(found) == {"cannot be read"}


async def test_what_is_no_picture_is_told_like_any_other(folder: Path) -> None:
    """Below the folder a file's faults may be known: its kind and its size."""
    (folder / "secret.txt").write_text("secret")
    (folder / "sparse.png").touch()
    os.truncate(folder / "sparse.png", 1 << 40)
    media = store(folder, max_media_bytes=1000)

    assert await faults(media, f"file://{folder}/secret.txt", f"file://{folder}/sparse.png") == [
        "is no PNG, JPEG, WebP, GIF, BMP or TIFF image",
        "has more than 1000 bytes",
    ]


def test_the_folder_must_be_one(folder: Path) -> None:
    """A folder that is none is refused when the server starts."""
    for path in (folder / "none", folder / "deep" / "a b%.png"):
        with pytest.raises(ValueError, match="--allowed-local-media-path must be a folder"):
            Settings(allowed_local_media_path=str(path))
