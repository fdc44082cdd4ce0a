"""Builds the images of docker-compose.yml, and stand-ins for foreign ones that are missing.

CONTAINER_BUILD_ARGS holds further words for the engine's build command, such as the mount of a
folder with torch's CPU wheels; BASE_IMAGE and PIP_CONF are those of docker-compose.yml.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from tests.containers.engine import ENGINE, ROOT, has_image, run
from tests.repo.deploy_files import COMPOSE, Tree

OURS = ("client", "control", "inference", "worker")
STAND_INS = {"VALKEY_IMAGE": "valkey", "PROMETHEUS_IMAGE": "prometheus"}
"""Variables of docker-compose.yml, and the Dockerfiles here that stand in for their defaults."""
_BUILD_S = 3600


def build() -> None:
    """All images that docker-compose.yml builds."""
    for service in OURS:
        _build_service(COMPOSE["services"][service])


def stand_ins() -> dict[str, str]:
    """Variables for docker-compose.yml: a stand-in for each foreign image that nobody named and
    that the engine does not have."""
    chosen: dict[str, str] = {}
    for variable, name in STAND_INS.items():
        if variable in os.environ or has_image(COMPOSE["services"][name]["image"]):
            continue
        chosen[variable] = f"localhost/saeserve-test-{name}"
        if not has_image(chosen[variable]):
            _build(f"tests/containers/{name}.Dockerfile", chosen[variable], {})
    return chosen


def _build_service(service: Tree) -> None:
    build: Tree = service["build"]
    given = {name: value or os.environ.get(name, "") for name, value in build["args"].items()}
    given["REVISION"] = run(["git", "rev-parse", "HEAD"]).strip()
    conf = os.environ.get("PIP_CONF", str(ROOT / "deploy/docker/pip.conf"))
    _build(
        build["dockerfile"],
        service["image"],
        given,
        ["--target", build["target"], "--secret", f"id=pip,src={conf}"],
    )


def _build(dockerfile: str, image: str, given: dict[str, str], more: Sequence[str] = ()) -> None:
    if base := os.environ.get("BASE_IMAGE"):
        given = {**given, "BASE_IMAGE": base}
    pairs = [f"{name}={value}" for name, value in given.items() if value]
    values = [word for pair in pairs for word in ("--build-arg", pair)]
    extra = shlex.split(os.environ.get("CONTAINER_BUILD_ARGS", ""))
    where = ["--file", dockerfile, "--tag", image, "."]
    run([ENGINE, "build", *extra, *values, *more, *where], timeout_s=_BUILD_S)
