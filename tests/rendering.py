"""What kubectl makes of deploy/kubernetes. Needs no cluster."""

import sys
from pathlib import Path
from typing import Any

import yaml

from processes import ROOT, run

TOOLS = Path(sys.executable).parent
FOLDER = ROOT / "deploy/kubernetes"

# The groups of resources that others define, and npm's packages of their types.
FOREIGN = {
    "gateway.envoyproxy.io": "envoy-gateway",
    "gateway.networking.k8s.io": "gateway-api",
    "keda.sh": "keda",
}


class Rendered:
    """What an overlay is, once rendered."""

    def __init__(self, text: str) -> None:
        self.all: list[Any] = [*yaml.safe_load_all(text)]
        self.foreign = [one for one in self.all if group(one) in FOREIGN]
        self.own = [one for one in self.all if group(one) not in FOREIGN]
        self.pod = self.one("StatefulSet")["spec"]["template"]
        (self.container,) = self.pod["spec"]["containers"]
        self.ports = {port["name"]: port["containerPort"] for port in self.container["ports"]}
        self.environment = {one["name"]: one["value"] for one in self.container["env"]}

    def named(self, kind: str) -> dict[str, Any]:
        """Return resources of a kind by their names."""
        return {one["metadata"]["name"]: one for one in self.all if one["kind"] == kind}

    def one(self, kind: str) -> Any:
        """Return the only resource of a kind."""
        (found,) = self.named(kind).values()
        return found


def group(resource: Any) -> str:
    """Return the API group of a resource; of Kubernetes' core its version."""
    return str(resource["apiVersion"].partition("/")[0])


def render(folder: Path) -> Rendered:
    """Have kubectl render an overlay."""
    done = run(TOOLS / "kubectl", "kustomize", folder)
    assert done.returncode == 0, done.stderr
    return Rendered(done.stdout)
