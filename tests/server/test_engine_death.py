"""An engine dies while it serves: what its calls are told, and whether the server stays."""

import asyncio
import logging
from functools import partial
from pathlib import Path
from time import monotonic

import pytest

from talkwire import Answer, AsyncClient, Unavailable
from talkwire_server.echo import EchoEngine
from talkwire_server.lifetime import serve
from talkwire_server.server import Server
from talkwire_server.settings import Settings

REASON = "the engine died: struck by lightning"


class Mortal(EchoEngine):
    """Takes its time to load, and dies when it is told to."""

    def __init__(self) -> None:
        super().__init__(["echo"], "", 0.02)
        self.loaded, self.dead = asyncio.Event(), asyncio.Event()

    async def ready(self) -> None:
        """Wait to be let."""
        await self.loaded.wait()
        self.loaded.clear()

    async def failed(self) -> str:
        """Wait for the end."""
        await self.dead.wait()
        return "struck by lightning"

    async def stop(self) -> None:
        """Have nothing left of the death."""
        self.dead.clear()


async def strike(client: AsyncClient, engine: Mortal) -> Answer:
    """Have the engine die amid a stream; return what came of the answer."""
    async with client.stream("word " * 1000) as stream:
        await anext(aiter(stream))
        engine.dead.set()
        with pytest.raises(Unavailable) as told:
            await stream.wait()
    assert told.value.reason == "ENGINE_DEAD"
    assert told.value.partial
    return told.value.partial


async def refusal(client: AsyncClient) -> str:
    """Ask, and return why not."""
    with pytest.raises(Unavailable) as refused:
        await client.chat("hi")
    return refused.value.reason


async def test_the_server_ends_with_its_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its calls fail as ENGINE_DEAD, its status is 1, and the termination log has one line."""
    engine, why = Mortal(), tmp_path / "why"
    engine.loaded.set()
    settings = Settings(host=f"unix:{tmp_path}/socket", termination_log=str(why))
    with caplog.at_level(logging.ERROR, "talkwire"):
        serving = asyncio.create_task(
            serve(settings, engine, partial(Server, settings, engine), monotonic())
        )
        async with AsyncClient(settings.host, retry=None) as client:
            await client.ready(timeout=60)
            begun = await strike(client, engine)
        status = await serving

    assert begun.text.startswith("word")
    assert status == 1
    assert caplog.messages == [REASON]
    assert why.read_text() == f"{REASON}\n"


async def test_one_that_dies_while_it_loads_ends_the_server(tmp_path: Path) -> None:
    """Nobody waits for ever for it to be ready."""
    engine, why = Mortal(), tmp_path / "why"
    settings = Settings(host=f"unix:{tmp_path}/socket", termination_log=str(why))
    engine.dead.set()

    assert await serve(settings, engine, partial(Server, settings, engine), monotonic()) == 1
    assert why.read_text() == f"{REASON}\n"


async def test_an_engine_is_started_anew_as_often_as_said(tmp_path: Path) -> None:
    """Meanwhile the server stays and says MODEL_LOADING; one death more ends it."""
    engine = Mortal()
    engine.loaded.set()
    settings = Settings(host=f"unix:{tmp_path}/socket", restart_engine=2)
    serving = asyncio.create_task(
        serve(settings, engine, partial(Server, settings, engine), monotonic())
    )
    async with AsyncClient(settings.host, retry=None) as client:
        for _ in range(2):
            await client.ready(timeout=60)
            await strike(client, engine)
            assert await refusal(client) == "MODEL_LOADING"
            engine.loaded.set()
        await client.ready(timeout=60)
        answer = await client.chat("back again")
        await strike(client, engine)
        status = await serving

    assert answer.text == "back again"
    assert status == 1


async def test_a_termination_log_that_cannot_be_written_costs_no_more_than_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason is in the log all the same, and so is that the file could not be written."""
    engine = Mortal()
    engine.loaded.set()
    engine.dead.set()
    settings = Settings(host=f"unix:{tmp_path}/socket", termination_log=str(tmp_path))
    with caplog.at_level(logging.ERROR, "talkwire"):
        status = await serve(settings, engine, partial(Server, settings, engine), monotonic())

    assert status == 1
    assert caplog.messages[0] == REASON
    assert caplog.messages[1].startswith("--termination-log: ")
