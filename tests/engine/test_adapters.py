"""LoRA adapters on vLLM: a server process of its own, with one from its flags and more later.

Greedy in float32, so that an answer does not depend on what else is in the batch.
"""

import asyncio
import re
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import grpc
import pytest

from adapters_files import make_adapter
from processes import launched
from support import RunningServer
from talkwire import AsyncClient, ModelNotFound
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import AdminServiceStub, ModelServiceStub
from talkwire_server import errors, model
from talkwire_server.engine import StartError

if TYPE_CHECKING:
    from talkwire_proto.v1.chat_pb2_grpc import AdminServiceAsyncStub, ModelServiceAsyncStub
    from talkwire_server.vllm_engine.engine import VllmEngine

pytestmark = [
    pytest.mark.skipif(find_spec("vllm") is None, reason="needs talkwire[cpu] or talkwire[gpu]"),
    pytest.mark.timeout(300),
]

BASE = model.NAME
QUESTIONS = ("Hi", "Tell me a story about a cat.", "What is the capital of France?")


class Served(NamedTuple):
    """A server with the adapter `flag`, and room for two more."""

    target: str
    admin: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    flag = make_adapter(tmp_path_factory.mktemp("adapters") / "flag")
    flags = ("--max-loras=3", "--max-model-len=1024", f"--kv-cache-memory-bytes={128 << 20}")
    modules = ("--lora-modules", f"flag={flag}")
    with launched("--engine=vllm", "--admin-port=0", *flags, *modules) as server:
        admin = server.logs(" administered ").partition(" on ")[2].split(",")[0]
        yield Served(server.target, admin)
        server.signal(signal.SIGTERM)
        server.ends()


@pytest.fixture
async def llm(served: Served) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(served.target, temperature=0, max_tokens=24) as client:
        yield client


@pytest.fixture
async def models(served: Served) -> AsyncIterator["ModelServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(served.target) as channel:
        yield ModelServiceStub(channel)


@pytest.fixture
async def admin(served: Served) -> AsyncIterator["AdminServiceAsyncStub"]:
    async with grpc.aio.insecure_channel(served.admin) as channel:
        yield AdminServiceStub(channel)


def load(id: str, folder: Path) -> pb.LoadAdapterRequest:
    return pb.LoadAdapterRequest(id=id, path=str(folder))


@asynccontextmanager
async def adapter(admin: "AdminServiceAsyncStub", id: str, folder: Path) -> AsyncIterator[pb.Model]:
    """Serve an adapter for the length of the block."""
    response = await admin.LoadAdapter(load(id, folder))
    try:
        yield response.model
    finally:
        await admin.UnloadAdapter(pb.UnloadAdapterRequest(id=id))


async def answers(llm: AsyncClient, id: str) -> list[str]:
    """Ask a model everything at once."""
    return [
        answer.text
        for answer in await asyncio.gather(*(llm.chat(text, model=id) for text in QUESTIONS))
    ]


async def refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    """Return how a call is refused."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details() or ""


async def ids(models: "ModelServiceAsyncStub") -> list[str]:
    return [model.id for model in (await models.ListModels(pb.ListModelsRequest())).models]


# Without LoRA. First, because these need the engine of this process.


async def test_a_server_without_lora(vllm: RunningServer, tmp_path: Path) -> None:
    """It refuses an adapter at run time by the flag's name, and does not start with some."""
    from talkwire_server.vllm_engine.adapters import Adapters  # only now: the server loads first

    folder = str(make_adapter(tmp_path / "a"))
    adapters = Adapters(None, vllm.engine.models)
    text = "adapters (the server has no --enable-lora)"

    with pytest.raises(errors.UnsupportedFeature, match=re.escape(text)):
        await vllm.engine.load_adapter("a", folder)
    with pytest.raises(StartError, match=rf"^--lora-modules: a: .*{re.escape(text)}; b: .*"):
        await adapters.start(cast("VllmEngine", vllm.engine).llm, {"a": folder, "b": folder})


async def test_before_the_engine_is_ready(vllm: RunningServer, tmp_path: Path) -> None:
    """What needs the engine is refused as loading."""
    from vllm.config.lora import LoRAConfig

    from talkwire_server.vllm_engine.adapters import Adapters

    adapters = Adapters(LoRAConfig(), vllm.engine.models)

    with pytest.raises(errors.ModelLoading):
        await adapters.load("a", str(make_adapter(tmp_path / "a")))
    with pytest.raises(errors.ModelLoading):
        await adapters.unload("a")


def test_flags_follow_the_adapters(vllm: RunningServer, tmp_path: Path) -> None:
    """`--lora-modules` turns LoRA on, with slots for all of them and vLLM's next larger rank."""
    from talkwire_server.vllm_engine.adapters import defaults

    made = [make_adapter(tmp_path / f"{i}", r=r) for i, r in enumerate((4, 33, 2, 2, 2))]
    flags = defaults({folder.name: str(folder) for folder in made})
    huge = defaults({"huge": str(make_adapter(tmp_path / "huge", r=1024))})

    assert flags["enable_lora"] is True
    assert (flags["max_loras"], flags["max_lora_rank"]) == (5, 64)
    assert huge["max_lora_rank"] == 512
    assert defaults({})["enable_lora"] is False
    assert defaults({})["max_lora_rank"] == 16
    with pytest.raises(StartError) as caught:
        defaults({"a": "/none", "b": str(made[0]), "c": str(tmp_path)})
    assert str(caught.value) == f"--lora-modules: a: {UNREADABLE}; c: {UNREADABLE}"


# What an adapter is


async def test_an_adapter_is_listed_with_its_base(models: "ModelServiceAsyncStub") -> None:
    """It comes after the base model, and is like it but for its ids and its time."""
    base, flag = (await models.ListModels(pb.ListModelsRequest())).models
    described = await models.GetModel(pb.GetModelRequest(id="flag"))

    assert (base.id, base.base_id) == (BASE, "")
    assert (flag.id, flag.base_id) == ("flag", BASE)
    assert described.model == flag
    assert flag.load_time.ToNanoseconds() >= base.load_time.ToNanoseconds() > 0
    flag.id, flag.base_id = base.id, base.base_id
    flag.load_time.CopyFrom(base.load_time)
    assert flag == base


async def test_an_adapter_answers_in_its_own_way(llm: AsyncClient) -> None:
    """Other weights, other text; and the answer says who gave it."""
    answer = await llm.chat(QUESTIONS[0], model="flag")
    base = await llm.chat(QUESTIONS[0])

    assert (answer.model, base.model) == ("flag", BASE)
    assert answer.text != base.text


async def test_models_in_one_batch_do_not_touch_one_another(
    llm: AsyncClient, admin: "AdminServiceAsyncStub", tmp_path: Path
) -> None:
    """The base model and as many adapters as there is room for: each answers as if alone."""
    one, two = (make_adapter(tmp_path / f"{seed}", seed) for seed in (1, 2))
    async with adapter(admin, "one", one), adapter(admin, "two", two):
        names = (BASE, "flag", "one", "two")
        alone = [await answers(llm, name) for name in names]
        together = await asyncio.gather(*(answers(llm, name) for name in names))

    assert together == alone
    assert len({text for texts in alone for text in texts}) == len(names) * len(QUESTIONS)


# Loading and unloading

FULL = "not supported by this server: more than 3 adapters at once"


async def test_an_adapter_comes_and_goes(
    llm: AsyncClient,
    admin: "AdminServiceAsyncStub",
    models: "ModelServiceAsyncStub",
    tmp_path: Path,
) -> None:
    """Loaded, it is listed and answers; unloaded, it is neither known nor listed."""
    async with adapter(admin, "org/new:1", make_adapter(tmp_path / "new", seed=2)) as loaded:
        described = await models.GetModel(pb.GetModelRequest(id="org/new:1"))
        listed = await ids(models)
        answer = await llm.chat("Hi", model="org/new:1")

    assert loaded == described.model
    assert listed == [BASE, "flag", "org/new:1"]
    assert answer.model == "org/new:1"
    assert await ids(models) == [BASE, "flag"]
    with pytest.raises(ModelNotFound):
        await llm.chat("Hi", model="org/new:1")


async def test_a_call_outlives_its_adapter(
    llm: AsyncClient, admin: "AdminServiceAsyncStub", tmp_path: Path
) -> None:
    """Unloaded and its folder removed, an adapter answers its running call to the end.

    Meanwhile other weights go by its id, from its folder: neither answer has anything of the
    other, nor does the prefix cache give one what it has kept of the other.
    """
    prompt = "Tell me of cats. " * 40  # longer than a block of the prefix cache
    long: dict[str, Any] = {"max_tokens": 48, "ignore_eos": True}
    one, two = make_adapter(tmp_path / "one", seed=3), make_adapter(tmp_path / "two", seed=4)
    async with adapter(admin, "one", one), adapter(admin, "two", two):
        alone = [(await llm.chat(prompt, model=name, **long)).text for name in ("one", "two")]

    async with AsyncExitStack() as stack:
        async with adapter(admin, "one", one):
            stream = await stack.enter_async_context(llm.stream(prompt, model="one", **long))
            await anext(stream)
        shutil.rmtree(one)
        two.rename(one)
        async with adapter(admin, "one", one):
            _, full = await refusal(admin.LoadAdapter(load("more", one)))
            second = await llm.chat(prompt, model="one", **long)
            first = await stream.wait()

    assert full == FULL  # the first one was still there
    assert [first.text, second.text] == alone
    assert first.text != second.text


async def test_there_is_room_for_so_many(admin: "AdminServiceAsyncStub", tmp_path: Path) -> None:
    """More than `--max-loras` (on a CPU) are refused, until one of them is unloaded."""
    folder = make_adapter(tmp_path / "a")
    async with adapter(admin, "a", folder):
        async with adapter(admin, "b", folder):
            refused = await refusal(admin.LoadAdapter(load("c", folder)))
        async with adapter(admin, "c", folder):
            pass

    assert refused == (grpc.StatusCode.FAILED_PRECONDITION, FULL)


async def test_a_load_that_is_given_up_leaves_nothing(
    admin: "AdminServiceAsyncStub", tmp_path: Path
) -> None:
    """However far it came, there is as much room afterwards as before."""
    folder = make_adapter(tmp_path / "a")
    for i in range(8):
        call = admin.LoadAdapter(load("gone", folder))
        await asyncio.sleep(i * 0.004)
        if call.cancel():
            with pytest.raises(asyncio.CancelledError):
                await call
        with suppress(grpc.aio.AioRpcError):
            await admin.UnloadAdapter(pb.UnloadAdapterRequest(id="gone"))

    async with adapter(admin, "a", folder), adapter(admin, "b", folder):
        pass


# What is refused

UNREADABLE = "path: has no adapter_config.json that vLLM can read"
UNLOADABLE = "path: vLLM cannot load it; the server's log has the cause"


def break_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")


def remove_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()


def break_config(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[1]")


@pytest.mark.parametrize(
    ("fields", "harm", "text"),
    [
        ({}, shutil.rmtree, "path: is no folder of the server's"),
        ({}, break_config, UNREADABLE),
        ({"lora_alpha": "much"}, None, UNREADABLE),
        ({"r": 64}, None, "path: LoRA rank 64 is greater than max_lora_rank 16."),
        ({"use_dora": True}, None, "path: vLLM does not yet support DoRA."),
        ({"hidden": 1024}, None, UNLOADABLE),
        ({"key": "x_proj"}, None, UNLOADABLE),
        ({}, break_weights, UNLOADABLE),
        ({}, remove_weights, UNLOADABLE),
    ],
)
async def test_what_is_no_adapter_of_the_model(
    llm: AsyncClient,
    admin: "AdminServiceAsyncStub",
    models: "ModelServiceAsyncStub",
    tmp_path: Path,
    fields: dict[str, Any],
    harm: Callable[[Path], None] | None,
    text: str,
) -> None:
    """The path is named, with vLLM's reason where it is written for users; the server serves on."""
    folder = make_adapter(tmp_path / "bad", **fields)
    if harm:
        harm(folder)
    before = await llm.chat("Hi", model="flag", max_tokens=4)

    assert await refusal(admin.LoadAdapter(load("bad", folder))) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        text,
    )
    assert await ids(models) == [BASE, "flag"]
    assert (await llm.chat("Hi", model="flag", max_tokens=4)).text == before.text


@pytest.mark.parametrize("id", [BASE, "flag"])
async def test_an_id_is_given_once(admin: "AdminServiceAsyncStub", tmp_path: Path, id: str) -> None:
    """Neither the base model's nor another adapter's can be taken."""
    folder = make_adapter(tmp_path / "a")

    assert await refusal(admin.LoadAdapter(load(id, folder))) == (
        grpc.StatusCode.ALREADY_EXISTS,
        f"there is a model {id!r} already",
    )


async def test_what_cannot_be_unloaded(admin: "AdminServiceAsyncStub") -> None:
    """An id that no model has is not found; the base model stays."""
    none, base = pb.UnloadAdapterRequest(id="none"), pb.UnloadAdapterRequest(id=BASE)

    assert await refusal(admin.UnloadAdapter(none)) == (
        grpc.StatusCode.NOT_FOUND,
        f"no model 'none' here; there is: {BASE}, flag",
    )
    assert await refusal(admin.UnloadAdapter(base)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "id: is the base model's",
    )
