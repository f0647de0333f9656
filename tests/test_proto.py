"""The contract: its generated code, its style, its growth, and a comment on all that it names."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from processes import BUF, ROOT, run

PROTO = "proto/talkwire/v1/chat.proto"

needs_buf = pytest.mark.skipif(not BUF.exists(), reason="needs npm's buf: scripts/setup.sh --dev")


def last_tag() -> str:
    """Return the newest tag that this commit comes after; empty where there is none."""
    if not shutil.which("git"):
        return ""
    return run("git", "describe", "--tags", "--abbrev=0").stdout.strip()


@pytest.mark.timeout(360)  # the first run installs the generator
def test_the_generated_code_is_that_of_the_contract(tmp_path: Path) -> None:
    """Generating anew gives what is committed, byte for byte and no file more or less."""
    done = run("scripts/proto.sh", tmp_path)

    assert done.returncode == 0, done.stderr
    folder = "generated/talkwire_proto/v1"
    made = {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir()}
    kept = {path.name: path.read_bytes() for path in (ROOT / folder).glob("chat_*")}
    for other in ("generated/talkwire.binpb", "docs/reference.md"):
        made[other], kept[other] = (tmp_path / other).read_bytes(), (ROOT / other).read_bytes()
    assert kept.keys() == made.keys()
    assert [name for name in kept if kept[name] != made[name]] == []


@needs_buf
def test_the_contract_is_free_of_lint() -> None:
    """`buf lint` is content, but for the shared request that buf.yaml documents."""
    done = run(BUF, "lint")

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@needs_buf
@pytest.mark.skipif(not last_tag(), reason="needs a git history with a tag")
def test_the_contract_keeps_what_the_last_release_promised() -> None:
    """Nothing of the last tag's contract is gone or means something else now."""
    done = run(BUF, "breaking", "--against", f".git#tag={last_tag()}")

    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


@needs_buf
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("string query = 1;", "string query = 99;"),
        ("optional double temperature = 1;", "double temperature = 1;"),
        ("rpc Chat(ChatRequest) returns (ChatResponse);", ""),
        ("ROLE_USER = 2;", "ROLE_PERSON = 2;"),
    ],
    ids=["renumbered field", "presence lost", "rpc removed", "enum value renamed"],
)
def test_a_broken_promise_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    """The guard of the contract's growth does fail where a change would break a caller."""
    text = (ROOT / PROTO).read_text(encoding="utf-8")
    changed = tmp_path / PROTO
    changed.parent.mkdir(parents=True)
    changed.write_text(text.replace(old, new), encoding="utf-8")
    shutil.copy(ROOT / "buf.yaml", tmp_path)
    done = run(BUF, "breaking", tmp_path, "--against", ".")

    assert old in text
    assert done.returncode == 100, done.stdout + done.stderr
    assert PROTO in done.stdout


@needs_buf
def test_everything_that_the_contract_names_has_a_comment(tmp_path: Path) -> None:
    """Each service, rpc, message and enum says what it is."""
    image = tmp_path / "image.binpb"
    run(BUF, "build", "--output", image)
    files = descriptor_pb2.FileDescriptorSet.FromString(image.read_bytes()).file
    (file,) = (file for file in files if file.package == "talkwire.v1")
    described = {
        tuple(location.path)
        for location in file.source_code_info.location
        if location.leading_comments.strip()
    }

    assert [name for path, name in named(file) if path not in described] == []


def named(file: descriptor_pb2.FileDescriptorProto) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield the path in the source information, and the name, of all that needs a comment.

    The numbers of a path are field numbers of descriptor.proto and indices, in turn.
    """
    for at, service in enumerate(file.service):
        yield (6, at), service.name
        for to, method in enumerate(service.method):
            yield (6, at, 2, to), method.name
    for at, message in enumerate(file.message_type):
        yield (4, at), message.name
    for at, enum in enumerate(file.enum_type):
        yield (5, at), enum.name
