"""Who calls, where nobody proves it; and what counting tokens is allowed to cost."""

import pytest

from talkwire_server.admission import Admission
from talkwire_server.callers import Caller, _host
from talkwire_server.echo import EchoEngine
from talkwire_server.errors import QueueFull
from talkwire_server.settings import Settings


@pytest.mark.parametrize(
    ("peer", "name"),
    [
        ("ipv4:10.0.0.5:40312", "10.0.0.5"),
        ("ipv6:%5B2001:db8:0:1:2:3:4:5%5D:40312", "2001:db8:0:1::/64"),
        ("ipv6:[2001:db8:0:1::9]:40312", "2001:db8:0:1::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:40312", "fe80::/64"),
        ("ipv6:%5B::ffff:10.0.0.5%5D:40312", "10.0.0.5"),
        ("unix:", "unix"),
    ],
)
def test_an_address_is_one_caller(peer: str, name: str) -> None:
    """Without its port; of IPv6 the network, in which a subscriber may take any address."""
    assert _host(peer) == name


async def test_counting_has_its_own_bounds() -> None:
    """As many at once as places, and of a caller as many as it may have calls."""
    admission = Admission(EchoEngine(["echo"], "", 0), Settings(max_running_requests=2))
    ada, bob, eve = (Caller(name=name, max_running=1) for name in ("ada", "bob", "eve"))

    async with admission.counting(ada):
        assert await refused(admission, ada)
        async with admission.counting(bob):
            assert await refused(admission, eve)
        assert not await refused(admission, eve)
    assert not await refused(admission, ada)


async def test_counting_keeps_to_the_servers_limit_of_a_caller() -> None:
    """Where a caller has none of its own, `--max-running-per-caller` leaves room for others."""
    settings = Settings(max_running_requests=2, max_running_per_caller=1)
    admission = Admission(EchoEngine(["echo"], "", 0), settings)
    ada, bob = Caller(name="ada"), Caller(name="bob")

    async with admission.counting(ada):
        assert await refused(admission, ada)
        assert not await refused(admission, bob)


async def refused(admission: Admission, caller: Caller) -> bool:
    try:
        async with admission.counting(caller):
            return False
    except QueueFull:
        return True
