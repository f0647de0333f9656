"""The contract that `tests/client/test_contract.py` states, kept by replicas behind HAProxy."""

from collections.abc import AsyncIterator
from importlib import import_module
from typing import Any

import pytest

from support import calling

pytestmark = pytest.mark.timeout(300)  # the first waits for the cluster

pytest.register_assert_rewrite("client.test_contract")
contract = import_module("client.test_contract")
globals().update({name: test for name, test in vars(contract).items() if name[:5] == "test_"})


@pytest.fixture(params=["async", "sync multiplexed"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which client: either, and either way."""
    return str(request.param)


@pytest.fixture(scope="package")
def echo(deployed: Any) -> Any:
    """The application: slow, but it says the same."""
    return deployed


@pytest.fixture(scope="package")
def slow_echo(deployed: Any) -> Any:
    """The same."""
    return deployed


@pytest.fixture
async def client(kind: str, deployed: Any) -> AsyncIterator[Any]:
    """Either client. A session keeps it at one replica: the contract is that of one server."""
    metadata = {**deployed.metadata, "session_id": "contract"}
    async with calling(kind, deployed.target, metadata=metadata) as caller:
        yield caller


@pytest.fixture
def slow_client(client: Any) -> Any:
    """The same."""
    return client
