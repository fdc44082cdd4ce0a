"""The deployment of docker-compose.yml under a name of its own, started as `make up` starts it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.containers.engine import COMPOSE, ENGINE, ROOT, CommandFailed, run, waited, works
from tests.repo.deploy_files import SERVICES

from saeserve.client import Client
from saeserve.client.access import Access

PROJECT = "saeserve-test"
_NETWORK = f"{PROJECT}_inside"
PROMETHEUS = "http://127.0.0.1:9090/api/v1"
# Where layers are copied (podman's vfs), each container takes minutes on a busy machine.
_UP_S = 3600
SERVED = ("valkey", "control", "inference", "worker", "prometheus")


class Deployment:
    """Containers, secrets and data below `folder`."""

    def __init__(self, folder: Path, images: dict[str, str]) -> None:
        self.data = folder / "data"
        self._secrets = folder / "secrets"
        self._environment = {
            **images,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "SAESERVE_SECRETS": str(self._secrets),
            "SAESERVE_DATA": str(self.data),
            # A limit that is there to be followed by torch's threads.
            "WORKER_CPUS": "1",
            "BUILD": "",
        }
        self._folder = folder

    def up(self) -> None:
        """`make up`, and all services healthy."""
        self.down()
        shutil.rmtree(self._folder, ignore_errors=True)
        self.data.mkdir(parents=True)
        run([str(ROOT / "deploy/compose/up.sh")], self._environment, timeout_s=_UP_S)
        for service in SERVED:
            waited(f"{service} is healthy", lambda service=service: self.healthy(service))

    def down(self) -> None:
        """All containers and volumes gone."""
        self.compose("down", "--volumes")

    def compose(self, *arguments: str) -> str:
        """What a command of the compose program printed."""
        return run([*COMPOSE, *arguments], self._environment, timeout_s=_UP_S)

    def scale(self, service: str, number: int) -> None:
        """`make up` with --scale, as README shows it."""
        self.compose("up", "--detach", "--no-build", "--scale", f"{service}={number}")

    def containers(self, service: str) -> list[str]:
        """Names of a service's containers."""
        labels = [f"com.docker.compose.project={PROJECT}", f"com.docker.compose.service={service}"]
        filters = [word for label in labels for word in ("--filter", f"label={label}")]
        return run([ENGINE, "ps", "--all", *filters, "--format", "{{.Names}}"]).split()

    def container(self, service: str) -> str:
        """Name of a service's only container."""
        found = self.containers(service)
        if len(found) != 1:
            raise CommandFailed(f"{service} has {len(found)} containers")
        return found[0]

    def pid(self, service: str) -> str:
        """Of the container's first process, in the host's eyes."""
        return run(
            [ENGINE, "inspect", "--format", "{{.State.Pid}}", self.container(service)]
        ).strip()

    def inside(self, service: str, *command: str) -> list[str]:
        """A command in a service's container."""
        return [ENGINE, "exec", self.container(service), *command]

    def disconnect(self, service: str) -> None:
        """Take a service out of the network: its name is nobody's, as before its first start. It
        goes on, for podman restarts no container whose dependency has stopped."""
        run([ENGINE, "network", "disconnect", "--force", _NETWORK, self.container(service)])

    def connect(self, service: str) -> None:
        """Put it back."""
        alias = ["--alias", service]
        run([ENGINE, "network", "connect", *alias, _NETWORK, self.container(service)])

    def healthy(self, service: str) -> bool:
        """Whether the container's own health check is content now, whoever runs it by the clock."""
        test: list[str] = SERVICES[service]["healthcheck"]["test"][1:]
        try:
            return works(self.inside(service, *test))
        except CommandFailed:
            return False

    def client(self, *, token: str | None = None, ca: bool = True) -> Client:
        """The SDK with what `make up` made, or with another token; "" is none."""
        access = Access(
            ca=self._secrets / "tls/ca.pem" if ca else None,
            token=token or "",
            token_file=self._secrets / "admin.token" if token is None else None,
        )
        return Client("127.0.0.1:7070", "127.0.0.1:7071", access=access)


def targets() -> list[dict[str, Any]]:
    """What Prometheus scrapes."""
    return _ask("targets")["activeTargets"]


def firing() -> list[str]:
    """Names of the alerts that Prometheus has found to fire."""
    found: list[dict[str, Any]] = _ask("alerts")["alerts"]
    return [each["labels"]["alertname"] for each in found if each["state"] == "firing"]


def _ask(path: str) -> dict[str, Any]:
    with urlopen(f"{PROMETHEUS}/{path}", timeout=10) as answer:
        return json.load(answer)["data"]
