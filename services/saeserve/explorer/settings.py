"""Settings of the explorer."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from saeserve.client.access import Access
from saeserve.client.settings import ClientEnvironment
from saeserve.platform.address import is_local, unix_path
from saeserve.platform.settings import ServiceSettings


class ExplorerSettings(ServiceSettings):
    """Settings of the explorer, in addition to those of every service."""

    explorer_address: str = "127.0.0.1:7072"
    """Where pages are served: host:port or unix:/path; over TLS with SAESERVE_TLS_CERT."""

    explorer_metrics_address: str = "127.0.0.1:9473"
    """Where /metrics is answered."""

    explorer_hosts: tuple[str, ...] = ()
    """Host names, as JSON, by which browsers reach an explorer that listens on loopback, such as
    those of a proxy in front of it; localhost and loopback addresses are known."""

    explorer_timeout_seconds: float = Field(default=20.0, gt=0)
    """How long a page waits for an answer of control or inference."""

    control_address: str = ClientEnvironment.control_address
    """Address of the control service."""

    inference_address: str = ClientEnvironment.inference_address
    """Address of the inference service."""

    tls_ca: Path | None = None
    """PEM file of the CA of the servers' certificates; host:port is then called over TLS."""

    client_cert: Path | None = None
    """PEM file of the certificate that servers with mutual TLS are shown."""

    client_key: Path | None = None
    """PEM file of that certificate's key."""

    def access(self, token: str = "") -> Access:
        """Certificates of the explorer, and the caller's token: it has none of its own."""
        return Access(self.tls_ca, self.client_cert, self.client_key, token)

    @property
    def must_sign_in(self) -> bool:
        """Whether nobody is shown anything without a token. Raises StartupError for an address that
        everybody could call."""
        return self.asks_tokens(self.explorer_address)

    @property
    def known_hosts(self) -> frozenset[str] | None:
        """Host names that requests may carry; None where any will do, because other machines are
        served on purpose."""
        if unix_path(self.explorer_address) is None and not is_local(self.explorer_address):
            return None
        return frozenset({"localhost", "127.0.0.1", "[::1]", *self.explorer_hosts})
