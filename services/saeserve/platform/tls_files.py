"""Which files a server's TLS is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """PEM files: certificate chain and key; with `client_ca` clients must have a certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def paths(self) -> list[Path]:
        """Certificate, key and, where clients need certificates, their CA."""
        return [self.certificate, self.key, *([self.client_ca] if self.client_ca else [])]
