"""Pictures in a chat, on the real engine with a tiny model that sees."""

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import talkwire
import vision_model
from processes import ServerProcess, launched
from support import RunningServer
from talkwire import (
    AsyncClient,
    InvalidRequest,
    MediaNotFound,
    MediaUnreadable,
    Unsupported,
)
from talkwire_proto.v1 import chat_pb2 as pb

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]

IMAGE_ID = 49153  # the second of vision_model.OWN_TOKENS
FRAMED = vision_model.IMAGE_TOKENS + 3  # what a picture takes of the prompt
LIMITS = ("--max-model-len=512", "--kv-cache-memory-bytes=16777216", "--max-num-batched-tokens=512")

RED = Image.new("RGB", (64, 64), (220, 10, 10))
BLUE = Image.new("RGB", (100, 80), (10, 10, 220))

Piece = str | Image.Image | pb.Part


def encoded(image: Image.Image, file_format: str = "PNG") -> bytes:
    file = BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def picture(data: bytes) -> pb.Part:
    return pb.Part(image=pb.Media(data=data))


def asking(*pieces: Piece) -> pb.ChatRequest:
    """Make a request of texts and pictures that asks for the likeliest first token."""
    parts = [
        pb.Part(text=piece)
        if isinstance(piece, str)
        else picture(encoded(piece))
        if isinstance(piece, Image.Image)
        else piece
        for piece in pieces
    ]
    return pb.ChatRequest(
        messages=[pb.Message(parts=parts)],
        system="",
        sampling=pb.Sampling(temperature=0, max_tokens=1),
        include=pb.Include(logprobs=5),
    )


def likely(answer: Any) -> dict[int, float]:
    """Return the log-probabilities of the likeliest first tokens."""
    (first,) = answer.logprobs
    return {token.token_id: token.logprob for token in first.alternatives}


async def test_a_model_of_text_alone(vllm: RunningServer) -> None:
    """A picture is refused by name: UNSUPPORTED_FEATURE."""
    async with AsyncClient(vllm.target) as client:
        with pytest.raises(Unsupported, match=r"messages\[0\]\.parts\[1\]\.image") as refused:
            await client.send(asking("What is this?", RED))
        model = await client.model()

    assert refused.value.reason == "UNSUPPORTED_FEATURE"
    assert model.input_modalities == ["text"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return vision_model.build(tmp_path_factory.mktemp("vision"))


@pytest.fixture(scope="module")
def reference(folder: Path) -> vision_model.Reference:
    return vision_model.Reference(folder)


@pytest.fixture(scope="module")
def stuck() -> Iterator[str]:
    """A web server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def process(folder: Path, stuck: str) -> Iterator[ServerProcess]:
    """Serve the model in a process of its own: two engines do not live in one."""
    limit, web = '--limit-mm-per-prompt={"image": 2}', f"--allowed-media-domains={stuck}"
    patience = "--media-timeout=100"
    with launched("--engine=vllm", f"--model={folder}", limit, web, patience, *LIMITS) as process:
        yield process


@pytest.fixture
async def vision(process: ServerProcess) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(process.target) as client:
        yield client


async def test_what_the_model_takes(vision: AsyncClient) -> None:
    """GetModel tells that it takes images beside text."""
    assert (await vision.model()).input_modalities == ["text", "image"]


@pytest.mark.parametrize(
    "pieces",
    [
        ("What is this?", RED),
        ("What is this?", BLUE),
        (RED,),
        (RED, "What is this?"),
        ("Here is", RED, "What is this?"),
        (RED, "and", BLUE),
        (BLUE, "and", RED),
        (RED, BLUE),
    ],
    ids=lambda pieces: "-".join("text" if isinstance(p, str) else "image" for p in pieces),
)
async def test_log_probabilities_are_those_of_transformers(
    vision: AsyncClient, reference: vision_model.Reference, pieces: tuple[str | Image.Image, ...]
) -> None:
    """Texts and pictures reach the model whole and in their order."""
    answer = await vision.send(asking(*pieces))
    expected = reference.logprobs(pieces)
    pictures = sum(not isinstance(piece, str) for piece in pieces)

    assert likely(answer) == pytest.approx({i: expected[i] for i in likely(answer)}, abs=1e-3)
    assert max(likely(answer), key=likely(answer).__getitem__) == expected.index(max(expected))
    assert answer.usage.media_tokens == FRAMED * pictures


async def test_another_picture_is_another_answer(vision: AsyncClient) -> None:
    """The same picture gives the same log-probabilities to the last bit, another one others."""
    red, again, blue = [
        likely(await vision.send(asking("What is this?", image))) for image in (RED, RED, BLUE)
    ]

    assert red == again
    assert red != blue


async def test_pictures_of_the_client(vision: AsyncClient) -> None:
    """A picture of PIL's in a Python list is the same picture."""
    answer = await vision.chat(
        ["What is this?", talkwire.Image(RED)],
        system="",
        temperature=0,
        max_tokens=1,
        include={"logprobs": 5},
    )

    assert likely(answer) == likely(await vision.send(asking("What is this?", RED)))


async def test_pictures_at_once(vision: AsyncClient) -> None:
    """In a batch every question keeps its own picture."""
    questions = [asking("What is this?", image) for image in (RED, BLUE)] * 4 + [asking("What?")]
    alone = [likely(await vision.send(question)) for question in questions]
    together = await asyncio.gather(*map(vision.send, questions))

    for answer, expected in zip(together, alone, strict=True):
        assert likely(answer) == pytest.approx(expected, abs=1e-4)


async def test_the_prefix_cache_tells_pictures_apart(
    vision: AsyncClient, reference: vision_model.Reference
) -> None:
    """A long prompt is computed once for each picture, although its tokens are the same."""
    story = "Once upon a time. " * 60
    cached = []
    for image in (RED, RED, BLUE):
        answer = await vision.send(asking(image, story))
        expected = reference.logprobs([image, story])
        assert likely(answer) == pytest.approx({i: expected[i] for i in likely(answer)}, abs=1e-3)
        cached.append(answer.usage.cached_tokens > 0)

    assert cached == [False, True, False]


@pytest.mark.parametrize(
    ("image", "file_format"),
    [
        (BLUE, "JPEG"),
        (BLUE, "WEBP"),
        (BLUE, "GIF"),
        (BLUE.convert("RGBA"), "PNG"),
        (BLUE.convert("L"), "PNG"),
        (BLUE.convert("P"), "PNG"),
        (BLUE.resize((1, 1)), "PNG"),
        (BLUE.resize((1000, 10)), "PNG"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.mode}-{value.size}",
)
async def test_pictures_of_every_kind(
    vision: AsyncClient, image: Image.Image, file_format: str
) -> None:
    """Formats, colours and sizes: each is a picture of as many tokens."""
    answer = await vision.send(asking("What is this?", picture(encoded(image, file_format))))

    assert answer.usage.media_tokens == FRAMED


async def test_where_pictures_come_from(vision: AsyncClient) -> None:
    """A data: URI and bytes kept under a key are the picture as the bytes themselves are."""
    data = encoded(BLUE)
    sources = [
        pb.Media(data=data),
        pb.Media(uri=f"data:image/png;base64,{b64encode(data).decode()}"),
        pb.Media(data=data, mime_type="image/png", cache_key="sea"),
        pb.Media(cache_id="sea"),
    ]
    first, *others = [
        likely(await vision.send(asking("What is this?", pb.Part(image=media))))
        for media in sources
    ]

    assert others == [first] * 3


async def test_the_prompt_is_counted_with_its_pictures(vision: AsyncClient) -> None:
    """CountTokens, usage and the prompt's ids agree on how long a prompt with a picture is."""
    request = asking("What is this?", RED)
    request.include.prompt_token_ids = True
    answer = await vision.send(request)
    counted = await vision.stub.CountTokens(pb.CountTokensRequest(request=request))

    assert answer.usage.prompt_tokens == len(answer.prompt_token_ids) == counted.prompt_tokens


# What is refused


def replaced(kind: str, data: bytes) -> pb.Part:
    return pb.Part(**{kind: pb.Media(data=data)})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["audio", "video"])
async def test_media_that_the_model_does_not_take(vision: AsyncClient, kind: str) -> None:
    """A sound or a film is refused by name, with what the model takes: UNSUPPORTED_FEATURE."""
    with pytest.raises(Unsupported) as refused:
        await vision.send(asking("What is this?", replaced(kind, b"RIFF0000WAVE")))

    assert refused.value.reason == "UNSUPPORTED_FEATURE"
    assert f"messages[0].parts[1].{kind} (the model takes text, image)" in refused.value.message


def truncated() -> bytes:
    noise = Image.effect_noise((64, 64), 50)
    return encoded(noise)[:2000]


@pytest.mark.parametrize("data", [truncated, lambda: b"no picture", lambda: encoded(RED)[:20]])
async def test_a_picture_that_cannot_be_read(
    vision: AsyncClient, data: Callable[[], bytes]
) -> None:
    """MEDIA_UNREADABLE names the one broken part of several, and the server answers on."""
    with pytest.raises(MediaUnreadable) as refused:
        await vision.send(asking("What are", RED, picture(data())))

    (violation,) = refused.value.violations
    assert refused.value.reason == "MEDIA_UNREADABLE"
    assert violation.field.startswith("messages[0].parts[2].image")
    assert "0x" not in violation.description
    assert await vision.send(asking("What is this?", RED))


async def test_a_bomb(vision: AsyncClient, process: ServerProcess) -> None:
    """A small file of 144 megapixels is refused before it takes gigabytes."""
    bomb = encoded(Image.new("1", (12_000, 12_000)))
    before = peak(process)
    with pytest.raises(MediaUnreadable, match=r"messages\[0\]\.parts\[0\]\.image.*pixels"):
        await vision.send(asking(picture(bomb)))

    assert len(bomb) < 20_000
    assert peak(process) - before < 100_000


def peak(process: ServerProcess) -> int:
    """Return the most memory that a server's own process ever had, in kB."""
    status = Path(f"/proc/{process.process.pid}/status").read_text(encoding="ascii")
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1])


async def test_more_pictures_than_the_operator_allows(vision: AsyncClient) -> None:
    """INVALID_ARGUMENT in vLLM's words, which tell the limit."""
    with pytest.raises(InvalidRequest, match="At most 2 image") as refused:
        await vision.send(asking(RED, BLUE, RED))

    assert refused.value.reason == "INVALID_FIELD"


async def test_a_key_under_which_nothing_is_kept(vision: AsyncClient) -> None:
    """MEDIA_NOT_FOUND names the part."""
    with pytest.raises(MediaNotFound) as refused:
        await vision.send(asking(pb.Part(image=pb.Media(cache_id="land"))))

    (violation,) = refused.value.violations
    assert refused.value.reason == "MEDIA_NOT_FOUND"
    assert violation.field == "messages[0].parts[0].image.cache_id"


async def test_a_picture_that_is_long_in_coming(vision: AsyncClient, stuck: str) -> None:
    """The time limit ends the wait for it: no text, but a finish reason, usage and an id."""
    request = asking("What is this?", pb.Part(image=pb.Media(uri=f"{stuck}/cat.png")))
    request.time_limit.FromMilliseconds(200)
    request.n, request.sampling.temperature = 2, 1
    answer = await vision.stub.Chat(request, timeout=50)
    deltas = [delta async for delta in vision.stub.ChatStream(request, timeout=50)]

    assert answer.id
    assert answer.finish_reason == pb.FINISH_REASON_TIME_LIMIT
    assert answer.HasField("usage")
    assert len(answer.alternatives) == 1
    assert [delta.finish_reason for delta in deltas] == [pb.FINISH_REASON_TIME_LIMIT] * 2
    assert [delta.HasField("usage") for delta in deltas] == [False, True]


async def test_the_word_for_a_picture(vision: AsyncClient) -> None:
    """In a text it is a word: pictures are those that were sent, beside it and without."""
    for pieces, pictures in (
        (("<image>",), 0),
        (("<image> and", RED), 1),
        ((RED, "<image>" * 4), 1),
    ):
        request = asking(*pieces)
        answer = await vision.send(request)
        count = pb.CountTokensRequest(request=request, include_token_ids=True)
        counted = await vision.stub.CountTokens(count)

        assert answer.usage.media_tokens == pictures * FRAMED
        assert answer.usage.prompt_tokens == counted.prompt_tokens
        assert list(counted.token_ids).count(IMAGE_ID) == pictures * vision_model.IMAGE_TOKENS
