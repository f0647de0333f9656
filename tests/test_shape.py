"""The shape of the house: who may import what, twins that are equal, tables that are complete."""

import ast
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

import talkwire
from processes import ROOT
from talkwire_proto.v1 import chat_pb2 as pb
from talkwire_proto.v1 import chat_pb2_grpc
from talkwire_server import errors, statuses

CLIENT = ROOT / "client/talkwire"
SERVER = ROOT / "server/talkwire_server"


def sources(*folders: Path) -> list[Path]:
    """Return the Python files below folders."""
    return [file for folder in folders for file in sorted(folder.rglob("*.py"))]


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


# What is public


def test_all_public_names_are_exported() -> None:
    """`__all__` is what the package has without an underscore, modules aside."""
    public = {
        name
        for name, value in vars(talkwire).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }

    assert set(talkwire.__all__) == public


# Twins


def methods(file: str, kind: str) -> dict[str, str]:
    """Return the public methods of a class and their signatures, spelled as if none were async."""
    (found,) = (
        node
        for node in parse(CLIENT / file).body
        if isinstance(node, ast.ClassDef) and node.name == kind
    )
    return {
        node.name: signature(node)
        for node in found.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (not node.name.startswith("_") or (kind.endswith("Client") and node.name == "__init__"))
    }


def signature(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """Spell a method: decorators, arguments and result, but not what async or threads need."""
    assert node.returns
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    text = f"{decorators} ({ast.unparse(node.args)}) -> {ast.unparse(node.returns)}"
    for word in ("Async", "async", "aio.", "'", "cached_"):
        text = text.replace(word, "")
    return text


@pytest.mark.parametrize("kind", ["Client", "Stream", "Conversation", "Replica", "Replicas"])
def test_twins_have_the_same_methods(kind: str) -> None:
    """What one client can do, the other can, with the same arguments, defaults and results."""
    file = "" if kind == "Client" else f"_{kind.lower()}"
    plain = methods(f"{file}_sync.py", kind)
    twin = methods(f"{file}_async.py", f"Async{kind}")

    assert plain
    assert twin == plain


# Imports


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full names of the modules imported anywhere in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "."


def importers(root: str, *folders: Path) -> set[str]:
    """Name the files that import a package or anything in it."""
    return {
        str(file.relative_to(ROOT))
        for file in sources(*folders)
        if any(name.split(".")[0] == root for name in imports(parse(file)))
    }


def test_one_package_imports_vllm() -> None:
    """What changes with vLLM's versions is in one place."""
    inside = importers("vllm", SERVER / "vllm_engine")

    assert inside
    assert importers("vllm", SERVER, CLIENT) == inside


def test_one_package_imports_ray() -> None:
    """A server needs none of it."""
    inside = importers("ray", SERVER / "ray_serve")

    assert inside
    assert importers("ray", SERVER, CLIENT) == inside


def test_one_module_imports_pydantic() -> None:
    """What needs talkwire[pydantic] is in one place."""
    inside = {"client/talkwire/_pydantic.py"}

    assert importers("pydantic", CLIENT) == importers("pydantic_core", CLIENT) == inside


def test_one_module_a_side_imports_opentelemetry() -> None:
    """What needs talkwire[otel], or a program that traces itself, is in one place a side."""
    server = {"server/talkwire_server/telemetry/tracing.py"}

    assert importers("opentelemetry", CLIENT) == {"client/talkwire/_tracing.py"}
    assert importers("opentelemetry", SERVER) == server


def test_one_module_of_the_server_knows_signals() -> None:
    """Signal handlers are set and signals named in signals.py alone."""
    assert importers("signal", SERVER) == {"server/talkwire_server/signals.py"}


def test_the_client_imports_what_it_declares() -> None:
    """The client needs grpcio and protobuf; its command line and one module take more."""
    own = {"talkwire", "talkwire_proto", *sys.stdlib_module_names}
    allowed = own | {"grpc", "google.protobuf"}
    more = {
        "cli": {"prometheus_client", "prompt_toolkit", "rich", "talkwire_server"},
        "_pydantic.py": {"pydantic", "pydantic_core"},
        "_tracing.py": {"opentelemetry"},
    }
    strangers = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in sources(CLIENT)
        for name in imports(parse(file))
        if not any(
            name == known or name.startswith(f"{known}.")
            for known in allowed.union(*(more[part] for part in file.parts if part in more))
        )
    }

    assert strangers == set()


def test_importing_the_client_loads_no_engine() -> None:
    """`import talkwire` brings in neither the server nor any of the heavy packages."""
    program = "import json, sys, talkwire; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"PIL", "numpy", "prompt_toolkit", "pydantic", "rich", "talkwire_server", "torch"}
    heavy |= {"opentelemetry", "transformers", "vllm"}

    assert heavy.intersection(json.loads(done.stdout)) == set()


# Tables of errors

FAILURES: list[tuple[errors.CallError, type[talkwire.Error]]] = [
    (errors.InvalidRequest([errors.Violation("query", "bad")]), talkwire.InvalidRequest),
    (errors.ContextLengthExceeded(9, 8), talkwire.ContextLengthExceeded),
    (errors.MediaUnreadable([errors.Violation("parts", "bad")]), talkwire.MediaUnreadable),
    (errors.MediaNotFound([errors.Violation("parts", "gone")]), talkwire.MediaNotFound),
    (errors.ModelNotFound("b", ["a"]), talkwire.ModelNotFound),
    (errors.UnsupportedFeature(["tools"]), talkwire.Unsupported),
    (errors.RequestIdInUse("mine"), talkwire.RequestIdInUse),
    (errors.AdapterExists("a"), talkwire.Error),
    (errors.Unauthenticated("expired"), talkwire.Unauthenticated),
    (errors.PermissionDenied("a"), talkwire.PermissionDenied),
    (errors.QueueFull(), talkwire.Overloaded),
    (errors.QuotaExceeded("me", "1 call at once", 2.5), talkwire.Overloaded),
    (errors.DeadlineUnreachable(1, 2), talkwire.Timeout),
    (errors.ModelLoading(), talkwire.Unavailable),
    (errors.ShuttingDown(), talkwire.Unavailable),
    (errors.SlowReader(30), talkwire.Error),
    (errors.EngineDead(), talkwire.Unavailable),
    (errors.Crowded(), talkwire.Unavailable),
    (errors.EngineFailure(), talkwire.ServerError),
]


def descendants(kind: type[errors.CallError]) -> Iterator[type[errors.CallError]]:
    for child in kind.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_failure_has_a_status() -> None:
    """The server's table has a row for each way in which a call can fail."""
    kinds = {kind for kind in descendants(errors.CallError) if kind is not errors.Later}

    assert set(statuses.STATUSES) == kinds
    assert {type(error) for error, _ in FAILURES} == kinds


class Failing(chat_pb2_grpc.ChatServiceServicer):
    """Fails each call in the same way."""

    def __init__(self, error: errors.CallError) -> None:
        self.error = error

    async def Chat(self, request: pb.ChatRequest, context: Any) -> pb.ChatResponse:
        """Fail."""
        async with statuses.statuses(context, "mine"):
            raise self.error


@pytest.mark.parametrize(
    ("error", "kind"), FAILURES, ids=[type(error).__name__ for error, _ in FAILURES]
)
async def test_every_failure_reaches_the_client_as_its_exception(
    error: errors.CallError, kind: type[talkwire.Error]
) -> None:
    """What the server raises arrives as the documented class, with text, reason and id."""
    server = grpc.aio.server()
    servicer = Failing(error)  # type: ignore[abstract]  # one method is enough
    chat_pb2_grpc.add_ChatServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with talkwire.AsyncClient(f"127.0.0.1:{port}", retry=None) as client:
        with pytest.raises(talkwire.Error) as failed:
            await client.chat("hi")
    await server.stop(None)

    _, reason = statuses.STATUSES[type(error)]
    assert type(failed.value) is kind
    assert failed.value.message == error.message
    assert failed.value.reason == pb.ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
    assert failed.value.request_id == "mine"


# Sizes


@pytest.mark.parametrize("folder", [CLIENT, SERVER], ids=lambda path: path.name)
def test_no_file_has_more_than_350_lines(folder: Path) -> None:
    """A file has one noun, and so few lines."""
    lengths = {
        str(file.relative_to(folder)): len(file.read_text(encoding="utf-8").splitlines())
        for file in sources(folder)
    }

    assert {name: lines for name, lines in lengths.items() if lines > 350} == {}


@pytest.mark.parametrize("file", sorted(SERVER.glob("*_service.py")), ids=lambda path: path.name)
def test_handlers_are_short(file: Path) -> None:
    """A handler says what happens; how it is done is elsewhere."""
    handlers = [node for node in ast.walk(parse(file)) if isinstance(node, ast.AsyncFunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in handlers}

    assert handlers
    assert {name: lines for name, lines in lengths.items() if lines > 25} == {}
