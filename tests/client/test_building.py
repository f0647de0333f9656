"""From Python's arguments to requests and channels: pure, no server."""

import math
from pathlib import Path

import grpc
import pytest

from talkwire import TLS, AsyncClient, Client, Retry
from talkwire._build import build
from talkwire._options import Options, resolve
from talkwire_proto.v1 import chat_pb2 as pb


def test_every_option_has_its_place_in_the_request() -> None:
    """What the options say is what the request says; what they leave out is unset."""
    request = build(
        "q",
        {
            "messages": [{"role": "developer", "content": "d", "name": "n"}],
            "system": "",
            "model": "m",
            "template": {"deep": {"a": 1}},
            "continue_final_message": True,
            "cache_salt": "salt",
            "request_id": "id",
            "temperature": 0,
            "stop": "S",
            "logit_bias": {5: -1.5},
        },
    )

    expected = pb.ChatRequest(
        query="q",
        messages=[pb.Message(role=pb.ROLE_DEVELOPER, text="d", name="n")],
        system="",
        model="m",
        cache_salt="salt",
        request_id="id",
        sampling=pb.Sampling(temperature=0, stop=["S"], logit_bias={5: -1.5}),
        template=pb.Template(continue_final_message=True),
    )
    expected.template.kwargs.update({"deep": {"a": 1}})
    assert request == expected
    bare = build("q", {})
    assert not bare.HasField("system")
    assert not bare.HasField("sampling")
    assert not bare.HasField("template")


def test_every_sampling_field_of_the_contract_is_an_option() -> None:
    """The client's names are the contract's, and none is missing."""
    from talkwire import SamplingOptions

    fields = {field.name for field in pb.Sampling.DESCRIPTOR.fields}
    assert fields == SamplingOptions.__optional_keys__


def test_bad_messages_are_all_named() -> None:
    """Each fault of each message, in one ValueError."""
    with pytest.raises(ValueError, match="messages") as caught:
        build("", {"messages": [{"role": "bot", "txt": 1}, {"text": "ok"}, {"text": 5}]})

    assert str(caught.value) == (
        "messages[0].role: unknown role 'bot'; messages[0].txt: unknown; "
        "messages[2].text: must be a string, not int"
    )


def test_the_environment_fills_in_what_is_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """TALKWIRE_TARGET, _TOKEN, _TIMEOUT, _TLS and the files; explicit arguments win."""
    for name, value in {
        "TALKWIRE_TARGET": "grpcs://far:1",
        "TALKWIRE_TOKEN": "t",
        "TALKWIRE_TIMEOUT": "5",
        "TALKWIRE_CA_FILE": "/ca",
    }.items():
        monkeypatch.setenv(name, value)
    options = resolve(None, token=None, tls=None, timeout=None)

    assert options == Options(target="far:1", token="t", tls=TLS(ca_file="/ca"), timeout=5)
    given = resolve("localhost:2", token="u", tls=False, timeout=math.inf)
    assert given == Options(target="localhost:2", token="u", tls=None, timeout=math.inf)


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("yes", True), ("0", False), ("No", False), ("off", False), ("FALSE", False)],
)
def test_tls_by_the_environment(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
) -> None:
    """TALKWIRE_TLS turns TLS on or leaves it off."""
    monkeypatch.setenv("TALKWIRE_TLS", value)

    assert (resolve("far:1", token=None, tls=None, timeout=None).tls is not None) == expected


@pytest.mark.parametrize("client", [Client, AsyncClient])
def test_a_token_does_not_travel_in_the_clear(client: type[Client]) -> None:
    """A token for another machine needs TLS; on this machine it need not."""
    with pytest.raises(ValueError, match="far:1 would travel in the clear"):
        client("far:1", token="secret")
    for target in (
        "localhost:1",
        "127.0.0.2:1",
        "[::1]:1",
        "unix:/s",
        "ipv4:127.0.0.1:1,127.0.0.2:2",
    ):
        client(target, token="secret")
    client("far:1", token="secret", tls=True)


@pytest.mark.parametrize(
    "target",
    ["localhost.far.com:1", "127.far.com:1", "127.0.0.1.far.io:1", "ipv4:127.0.0.1:1,1.2.3.4:1"],
)
def test_a_name_that_looks_like_this_machine_is_not(target: str) -> None:
    """Only `localhost`, loopback addresses and sockets are; of several, all must be."""
    with pytest.raises(ValueError, match="in the clear"):
        Client(target, token="secret")


def test_retries_that_grpc_would_not_take_are_refused() -> None:
    """An impossible policy is named, instead of breaking every call, or hanging it (grpc#41036)."""
    for bad in ({"attempts": 0}, {"initial": 0.001}, {"initial": 2, "maximum": 1}):
        with pytest.raises(ValueError, match="attempts must be"):
            Retry(**bad)


def test_metadata_of_a_call() -> None:
    """An id and the bearer token, anew each time, then the client's and the call's own."""
    tokens = iter("abc")
    options = Options(target="t", token=lambda: next(tokens), metadata={"k": "1", "l": "2"})

    (key, first), *others = options.call_metadata({"k": "3"})
    (_, second), token, *_ = options.call_metadata({})
    assert (key, first == second) == ("x-request-id", False)
    assert others == [("authorization", "Bearer a"), ("k", "3"), ("l", "2")]
    assert token == ("authorization", "Bearer b")
    assert ("x-request-id", "mine") in options.call_metadata({"x-request-id": "mine"})


def test_timeouts() -> None:
    """A call's own timeout wins; infinity is no limit."""
    options = Options(target="t", timeout=5)

    assert [options.call_timeout(t) for t in (None, 2, math.inf)] == [5, 2, None]


def test_channel_arguments() -> None:
    """Proxies are not asked for this machine; retries are gRPC's own; the caller's go first."""
    local = dict(Options(target="localhost:1").channel_arguments("localhost:1"))
    own = Options(target="far:1", retry=None, channel_options=[("grpc.keepalive_time_ms", 1)])
    far = dict(reversed(own.channel_arguments("far:1")))  # of two gRPC takes the first
    once = dict(Options(target="far:1", retry=Retry(attempts=1)).channel_arguments("far:1"))

    assert local["grpc.enable_http_proxy"] == 0
    assert '"maxAttempts": 4' in local["grpc.service_config"]
    assert "grpc.enable_http_proxy" not in far
    assert "retryPolicy" not in far["grpc.service_config"]
    assert far["grpc.keepalive_time_ms"] == 1
    assert "retryPolicy" not in once["grpc.service_config"]


def test_tls_reads_its_files(tmp_path: Path) -> None:
    """A missing file is an OSError; without files the system's authorities are trusted."""
    assert isinstance(TLS().credentials(), grpc.ChannelCredentials)
    with pytest.raises(FileNotFoundError):
        TLS(ca_file=str(tmp_path / "missing.pem")).credentials()
