"""Where the SDK finds the services: the one place of the client that reads the environment.

platform/settings.py reads all else that the environment sets. It needs pydantic, which an install
of the client alone does not bring, so what a client has to know is read here.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Self

from saeserve.client.access import Access

PREFIX = "SAESERVE_"


@dataclass(frozen=True)
class ClientEnvironment:
    """What the environment says about the services: field `x` is read from `SAESERVE_X`."""

    control_address: str = "127.0.0.1:7070"
    """Address of the control service, host:port or unix:/path."""

    inference_address: str = "127.0.0.1:7071"
    """Address of the inference service, likewise."""

    tls_ca: str = ""
    """PEM file of the CA of the servers' certificates; host:port is then called over TLS."""

    client_cert: str = ""
    """PEM file of the certificate that servers with mutual TLS are shown."""

    client_key: str = ""
    """PEM file of that certificate's key."""

    token: str = field(default="", repr=False)
    """The token that calls are made with; sent over TLS or to this machine only."""

    token_file: str = ""
    """File with the token, in place of `token`; read again when it changes."""

    @classmethod
    def load(cls) -> Self:
        """Read the environment; a variable that is empty counts as unset."""
        named = {each.name: PREFIX + each.name.upper() for each in fields(cls)}
        found = {name: os.environ.get(variable) for name, variable in named.items()}  # noqa: TID251 - see the module
        return cls(**{name: value for name, value in found.items() if value})

    def access(self) -> Access:
        """The certificates and the token that it names."""
        files = (self.tls_ca, self.client_cert, self.client_key, self.token_file)
        ca, certificate, key, token_file = (Path(file) if file else None for file in files)
        return Access(ca, certificate, key, self.token, token_file)
