"""The files below deploy/ and docker-compose.yml, as the tests of them read them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from saeserve.control.settings import ControlSettings
from saeserve.explorer.settings import ExplorerSettings
from saeserve.inference.settings import InferenceSettings
from saeserve.platform.settings import PREFIX, ServiceSettings
from saeserve.v1 import inference_service_pb2, job_service_pb2
from saeserve.worker.settings import WorkerSettings

Tree = dict[str, Any]
ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, type[ServiceSettings]] = {
    "control": ControlSettings,
    "worker": WorkerSettings,
    "inference": InferenceSettings,
    "explorer": ExplorerSettings,
}
OURS = tuple(SETTINGS)
GRPC_SERVICES = {
    service.full_name
    for file in (job_service_pb2, inference_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
DOCKERFILE = (ROOT / "deploy/docker/Dockerfile").read_text().replace("\\\n", " ")


VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")


def load(path: str) -> Tree:
    """A YAML file, with the defaults of the variables in it."""
    return cast(Tree, yaml.safe_load(VARIABLE.sub(r"\2", (ROOT / path).read_text())))


COMPOSE = load("docker-compose.yml")
SERVICES: dict[str, Tree] = {
    name: each for name, each in COMPOSE["services"].items() if name != "client"
}
CLIENT: Tree = COMPOSE["services"]["client"]
OVERRIDES = {
    path.name: load(f"deploy/compose/{path.name}") for path in ROOT.glob("deploy/compose/*.yml")
}
# Each image is built once for all containers that use it.
BUILT = [*OURS, "client"]


def settings_of(
    service: str, monkeypatch: pytest.MonkeyPatch, override: Tree | None = None
) -> Tree:
    """The service's settings under its environment in the compose file; unknown names fail."""
    more = (override or {}).get("services", {}).get(service, {}).get("environment", {})
    environment: dict[str, str] = {**SERVICES[service]["environment"], **more}
    fields = {PREFIX + name.upper() for name in SETTINGS[service].model_fields}
    assert not {name for name in environment if name.startswith(PREFIX)} - fields
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return SETTINGS[service].load().model_dump()


def seconds(duration: str) -> int:
    assert duration.endswith("s")
    return int(duration.removesuffix("s"))


def stages() -> dict[str, list[str]]:
    """Instructions of each stage of the Dockerfile, by its name."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        if match := re.fullmatch(r"FROM \S+ AS (\w+)", line):
            found[match[1]] = []
        elif found and line and not line.startswith("#"):
            found[list(found)[-1]].append(line)
    return found


def scraped(config: Tree) -> dict[str, list[str]]:
    """host:port of each job of a Prometheus configuration."""
    return {
        job["job_name"]: [
            *(target for static in job.get("static_configs", ()) for target in static["targets"]),
            *(
                f"{name}:{found['port']}"
                for found in job.get("dns_sd_configs", ())
                for name in found["names"]
            ),
        ]
        for job in config["scrape_configs"]
    }


def variables(stage: str) -> dict[str, str]:
    """What a stage of the Dockerfile sets by ENV."""
    words = [line.split()[1:] for line in stages()[stage] if line.startswith("ENV ")]
    return dict(word.split("=", 1) for each in words for word in each)


def mounts(service: Tree) -> list[Tree]:
    """Files and folders of the host that a container sees."""
    return [each for each in service["volumes"] if not isinstance(each, str)]
