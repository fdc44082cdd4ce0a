"""Where the command line finds the services."""

from __future__ import annotations

from saeserve.client.settings import ClientEnvironment
from saeserve.platform.settings import ClientSettings


class CliSettings(ClientSettings):
    """The services' own variables, read from the other side."""

    control_address: str = ClientEnvironment.control_address
    """Address of the control service."""

    inference_address: str = ClientEnvironment.inference_address
    """Address of the inference service."""

    worker_metrics_address: str = "127.0.0.1:9471"
    """Where a worker of this machine serves its metrics."""
