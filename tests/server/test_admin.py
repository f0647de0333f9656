"""The AdminService and the port that it is served on, on an engine without adapters."""

import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from processes import launched, run
from support import running, trailers
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1.chat_pb2_grpc import AdminServiceStub, ChatServiceStub
from talkwire_server.adapters import module_faults, modules
from talkwire_server.echo import EchoEngine
from talkwire_server.engine import StartError
from talkwire_server.server import Server
from talkwire_server.settings import Settings

GRPCURL = Path(sys.executable).with_name("grpcurl")


@pytest.fixture
async def admin() -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the admin port of an echo server."""
    async with running(EchoEngine(["echo"], "", 0), admin_port=0) as server:
        assert server.server.admin
        async with grpc.aio.insecure_channel(server.server.admin.address) as channel:
            yield channel


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, list[str]]:
    """Return how a call is refused: its status, ErrorInfo's reason and the fields at fault."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = status_pb2.Status.FromString(trailers(caught.value)["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    for detail in status.details:
        detail.Unpack(bad)
    return caught.value.code(), info.reason, [fault.field for fault in bad.field_violations]


# Which port serves it


async def test_the_main_port_does_not_serve_it(tmp_path: Path) -> None:
    """There a call is UNIMPLEMENTED, also where the server has an admin port."""
    async with (
        running(EchoEngine(["echo"], "", 0), admin_port=0) as server,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub = AdminServiceStub(channel)
        for call in (
            stub.LoadAdapter(pb.LoadAdapterRequest(id="a", path=str(tmp_path))),
            stub.UnloadAdapter(pb.UnloadAdapterRequest(id="a")),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_admin_port_serves_nothing_else(admin: grpc.aio.Channel) -> None:
    """A chat there is UNIMPLEMENTED."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ChatServiceStub(admin).Chat(pb.ChatRequest(query="x"))

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_grpcurl_sees_each_service_on_its_own_port() -> None:
    """Reflection lists and grpcurl calls AdminService on the admin port, and only there."""
    load = ("-plaintext", "-d", '{"id": "a", "path": "."}')
    method = "talkwire.v1.AdminService/LoadAdapter"
    with launched("--admin-port=0") as server:
        admin = server.logs(" administered ").partition(" on ")[2].split(",")[0]
        listed = [run(GRPCURL, "-plaintext", port, "list") for port in (admin, server.target)]
        called = [run(GRPCURL, *load, port, method) for port in (admin, server.target)]

    assert listed[0].stdout.split() == [
        "grpc.reflection.v1alpha.ServerReflection",
        "talkwire.v1.AdminService",
    ]
    assert "AdminService" not in listed[1].stdout
    assert "Code: FailedPrecondition" in called[0].stderr
    assert "Code: Unimplemented" in called[1].stderr


def test_reflection_can_be_turned_off_there_too() -> None:
    """With `--no-reflection` the admin port does not tell its schema."""
    with launched("--admin-port=0", "--no-reflection") as server:
        admin = server.logs(" administered ").partition(" on ")[2].split(",")[0]
        listed = run(GRPCURL, "-plaintext", admin, "list")

    assert "server does not support the reflection API" in listed.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_only_this_machine_reaches_it(host: str) -> None:
    """Wherever the main port listens, the admin port is on 127.0.0.1 and on no other address."""
    engine = EchoEngine(["echo"], "", 0)
    async with running(engine, host=host, admin_port=0, allow_insecure=True) as server:
        assert server.server.admin
        port = int(server.server.admin.address.removeprefix("127.0.0.1:"))
        with socket.create_connection(("127.0.0.1", port)):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", port))


async def test_it_closes_with_the_server() -> None:
    """From the start of the drain on nobody reaches it."""
    server = Server(Settings(port=0, admin_port=0), EchoEngine(["echo"], "", 0))
    await server.listen()
    assert server.admin
    host, _, port = server.admin.address.partition(":")
    await server.drain()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)))
    await server.close()


async def test_without_the_flag_there_is_no_such_port() -> None:
    """The service is off by default."""
    assert Server(Settings(port=0), EchoEngine(["echo"], "", 0)).admin is None


async def test_a_port_that_is_taken_is_a_failed_start() -> None:
    """One line names the address."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = Server(Settings(port=0, admin_port=port), EchoEngine(["echo"], "", 0))
        with pytest.raises(StartError, match=rf"^cannot listen on 127\.0\.0\.1:{port}: taken$"):
            await server.listen()
        await server.close()


# What it refuses


@pytest.mark.parametrize(
    ("id", "path", "fields"),
    [
        ("", "", ["id", "path"]),
        ("a b", "/no/such/folder", ["id", "path"]),
        ("é", ".", ["id"]),
        ("a" * 129, ".", ["id"]),
        ("a", __file__, ["path"]),
        ("a", "nul\0", ["path"]),
        ("a", "x" * 5000, ["path"]),
    ],
)
async def test_faults_of_an_adapter(
    admin: grpc.aio.Channel, id: str, path: str, fields: list[str]
) -> None:
    """An id that no model can have and a path that is no folder are named, both at once."""
    request = pb.LoadAdapterRequest(id=id, path=path)

    assert await refusal(AdminServiceStub(admin).LoadAdapter(request)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        fields,
    )


async def test_an_engine_without_adapters(admin: grpc.aio.Channel, tmp_path: Path) -> None:
    """A load is an UNSUPPORTED_FEATURE, there is nothing to unload, and an id is required."""
    stub = AdminServiceStub(admin)
    load = pb.LoadAdapterRequest(id="org/a:1.0_b-c", path=str(tmp_path))

    assert await refusal(stub.LoadAdapter(load)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "UNSUPPORTED_FEATURE",
        [],
    )
    assert await refusal(stub.UnloadAdapter(pb.UnloadAdapterRequest(id="a"))) == (
        grpc.StatusCode.NOT_FOUND,
        "MODEL_NOT_FOUND",
        [],
    )
    assert await refusal(stub.UnloadAdapter(pb.UnloadAdapterRequest())) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_FIELD",
        ["id"],
    )


def test_faults_of_lora_modules(tmp_path: Path) -> None:
    """Each adapter that the command line gets wrong is named; else each id has its folder."""
    good = f"a={tmp_path}"

    assert modules([good, f"b=c={tmp_path}"]) == {"a": str(tmp_path), "b": f"c={tmp_path}"}
    assert list(module_faults([good])) == []
    assert list(module_faults([good, good, "x", "b c=/none"])) == [
        "--lora-modules names a twice",
        "--lora-modules must be NAME=PATH, got x",
        "--lora-modules b c=/none: id must match [A-Za-z0-9._:/-]{1,128}",
        "--lora-modules b c=/none: path is no folder of the server's",
    ]
