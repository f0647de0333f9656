"""`talkwire ray deploy`: a configuration in, replicas that serve out."""

import logging
import os
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from time import monotonic

import ray
from ray import serve

from talkwire import Client
from talkwire.cli.status import FAILED, Complaint
from talkwire_server.engine import StartError
from talkwire_server.ray_serve import cluster
from talkwire_server.ray_serve.application import REPLICA, application, start
from talkwire_server.ray_serve.config import Config, read

_PATIENCE = 180.0  # seconds, once its replicas run, for HAProxy to find them
_POLL = 5.0
_GIVEN_UP = {"UNHEALTHY", "DEPLOY_FAILED"}
_START = 900.0  # seconds for the first replica, where none runs before somebody asks


def main(argv: Sequence[str]) -> int:
    """Deploy; return when it serves."""
    parser = ArgumentParser(
        prog="talkwire ray",
        description="Serve a model on a Ray cluster, behind Ray Serve's HAProxy.",
        epilog="A file has the flags of `talkwire serve` without their dashes, and a key `ray` for "
        "the replicas; to deploy it anew replaces them one by one. Run it where Ray runs. "
        "`serve status` and `serve shutdown`, Ray's own, are what goes with it.",
    )
    parser.add_argument("action", choices=("deploy",))
    parser.add_argument("config", metavar="FILE.yaml", help="what to deploy")
    path = parser.parse_args(argv).config
    if fault := cluster.own_fault(os.environ):
        raise Complaint(fault)
    try:
        config = read(path)
    except ValueError as error:
        raise Complaint(f"{path}: {error}") from None
    started = monotonic()
    target = _deploy(config)
    sys.stdout.write(f"serving on {target} after {monotonic() - started:.1f} s\n")
    return 0


def _deploy(config: Config) -> str:
    """Deploy on the cluster that is there; return where it serves."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        ray.init(address="auto", log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError:
        raise Complaint("no Ray runs here: ray start --head") from None
    if faults := [*cluster.faults(config.settings.grace)]:
        raise Complaint("; ".join(faults))
    name = config.replicas.name
    try:
        start(config)
    except RuntimeError as error:
        taken = [line for line in str(error).splitlines() if "cannot bind" in line]
        raise Complaint("\n".join(["Serve did not start", *taken]), FAILED) from error
    try:
        # Of HTTP; HAProxy forwards to no application without one.
        serve.run(application(config), name=name, route_prefix=f"/{name}")
    except RuntimeError:
        raise _none_started(name) from None
    settings = config.settings
    everywhere = settings.host == "0.0.0.0"
    target = f"{cluster.head()}:{settings.port}" if everywhere else settings.address(settings.port)
    try:
        with Client(target, metadata={"application": name}, tls=False) as client:
            serves = _serves(client, name, _START if config.replicas.may_be_none else _PATIENCE)
    except ValueError as error:  # of the variables that clients read
        raise Complaint(f"it is deployed, and cannot be asked: {error}", FAILED) from None
    if not serves:
        raise Complaint(f"{target} does not serve: did Serve run with other options?", FAILED)
    return target


def _serves(client: Client, name: str, seconds: float) -> bool:
    """Wait until it answers. Raises Complaint as soon as Serve gave its replicas up."""
    end = monotonic() + seconds
    while not client.ready(_POLL):
        if serve.status().applications[name].deployments[REPLICA].status in _GIVEN_UP:
            raise _none_started(name)
        if monotonic() > end:
            return False
    return True


def _none_started(name: str) -> Complaint:
    told = serve.status().applications[name].deployments[REPLICA].message
    cause = told.strip().rpartition("\n")[2].removeprefix(f"{StartError.__module__}.StartError: ")
    return Complaint(f"no replica started: {cause} (`serve status` says more)", FAILED)
