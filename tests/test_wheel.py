"""The wheel, as another project gets it: built, installed alone, imported, typed and used."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

import pytest

from processes import ROOT, run, serving

pytestmark = pytest.mark.timeout(300)  # a build and an installation, both by pip

CHAT = """
import sys, talkwire
with talkwire.Client(sys.argv[1]) as client:
    print(client.chat("What is the capital of France?"))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built in isolation."""
    folder = tmp_path_factory.mktemp("wheel")
    done = run(sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT)

    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment where nothing but the wheel was asked for."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    done = pip(folder, "install", "--no-cache-dir", wheel)

    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """An echo server from this environment; its address."""
    with serving() as address:
        yield address


def pip(environment: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run this environment's pip on another."""
    python = environment / "bin/python"
    return run(sys.executable, "-m", "pip", "--python", python, *arguments)


def test_the_wheel_holds_the_packages_with_their_types_and_nothing_else(wheel: Path) -> None:
    """Three packages, each marked as typed, the stubs of the generated code, and the licence."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {"talkwire", "talkwire_proto", "talkwire_server"}
    about = f"{'-'.join(wheel.name.split('-')[:2])}.dist-info"

    assert {name.split("/")[0] for name in names} == packages | {about}
    assert {f"{package}/py.typed" for package in packages} <= names
    assert {
        "talkwire_proto/v1/chat_pb2.pyi",
        "talkwire_proto/v1/chat_pb2_grpc.pyi",
        f"{about}/licenses/LICENSE",
    } <= names


def test_only_what_is_declared_comes_in(wheel: Path, environment: Path) -> None:
    """The client needs grpcio and protobuf, and these bring nothing but grpcio's own need."""
    with zipfile.ZipFile(wheel) as archive:
        (about,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = Parser().parsestr(archive.read(about).decode())
    declared = {
        re.split(r"[<>=!~ ;]", need)[0]
        for need in metadata.get_all("Requires-Dist", [])
        if "extra ==" not in need
    }
    listed = pip(environment, "list", "--format=freeze").stdout.split()
    installed = {line.split("==")[0] for line in listed}

    assert declared == {"grpcio", "protobuf"}
    assert installed - {"typing_extensions"} == declared | {"talkwire"}


def test_the_client_imports_without_a_warning(environment: Path) -> None:
    """`import talkwire` is silent where every warning is an error."""
    done = run(environment / "bin/python", "-W", "error", "-c", "import talkwire")

    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_chats(environment: Path, server: str) -> None:
    """The installed client talks to a server that runs elsewhere."""
    done = run(environment / "bin/python", "-W", "error", "-c", CHAT, server)

    assert (done.stdout, done.stderr) == ("What is the capital of France?\n", "")


def test_the_command_shows_its_help(environment: Path) -> None:
    """`talkwire --help` needs no extra."""
    done = run(environment / "bin/talkwire", "--help")

    assert done.returncode == 0
    assert done.stdout.startswith("usage: talkwire ")


def test_the_command_tells_whether_a_server_serves(environment: Path, server: str) -> None:
    """`talkwire ready` needs no extra; its exit status is the answer."""
    yes = run(environment / "bin/talkwire", "ready", server)
    no = run(environment / "bin/talkwire", "ready", "unix:/nowhere.sock")

    assert (yes.returncode, yes.stderr) == (0, "")
    assert (no.returncode, no.stderr) == (1, "talkwire: unix:/nowhere.sock does not serve\n")


def test_the_command_asks(environment: Path, server: str) -> None:
    """`talkwire ask` needs no extra: the answer and nothing else is on standard output."""
    done = run(environment / "bin/talkwire", "ask", "--target", server, "Say hello")

    assert (done.returncode, done.stdout, done.stderr) == (0, "Say hello\n", "")


def test_the_command_says_what_it_lacks(environment: Path) -> None:
    """A command that needs an extra names it, in one line and without a stack."""
    done = run(environment / "bin/talkwire", "serve")

    assert done.returncode == 2
    assert re.fullmatch(r".*pip install 'talkwire\[\w+\]'.*\n", done.stderr), done.stderr


def test_a_type_checker_knows_the_api(environment: Path, tmp_path: Path) -> None:
    """Mypy infers every type of a caller from the wheel alone; none of them is Any."""
    config = tmp_path / "mypy.ini"
    config.write_text("[mypy]\nstrict = true\ndisallow_any_expr = true\n", encoding="utf-8")
    done = run(
        *(sys.executable, "-m", "mypy", "--config-file", config),
        *("--cache-dir", tmp_path / "cache", "--python-executable", environment / "bin/python"),
        ROOT / "tests/typing/api.py",
    )

    assert (done.returncode, done.stderr) == (0, ""), done.stdout
