"""TLS of a server: its certificate and the CA of its clients, read again when they change."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import cast

import grpc
from prometheus_client import CollectorRegistry, Gauge

from saeserve.errors import StartupError
from saeserve.platform.certificates import Pair, read_authorities, read_pair
from saeserve.platform.secret_files import warn_of_readers
from saeserve.platform.tls_files import TlsFiles

log = logging.getLogger(__name__)

_Signature = tuple[object, ...]


class ServerTls:
    """Credentials of a gRPC server that follow the files: each new connection gets what they hold.

    Open connections keep what they began with. Files that cannot serve, such as a certificate whose
    key is not there yet, are logged once and change nothing.
    """

    def __init__(self, files: TlsFiles, registry: CollectorRegistry | None = None) -> None:
        """`registry` gets the time at which the certificate in use expires. Raises StartupError."""
        self._files = files
        self._lock = threading.Lock()
        self._seen = _signature(files)
        self._expiry = expiry_gauge(registry) if registry is not None else None
        self._configuration = self._load()
        warn_of_readers(files.key)

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`."""
        # The stubs forget that None keeps the configuration in use.
        fetch = cast("Callable[[], grpc.ServerCertificateConfiguration]", self._renewed)
        return grpc.dynamic_ssl_server_credentials(
            self._configuration,
            fetch,
            require_client_authentication=self._files.client_ca is not None,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """gRPC asks at every handshake, in threads of its own; None keeps what it has."""
        with self._lock:
            signature = _signature(self._files)
            if signature == self._seen:
                return None
            self._seen = signature
            try:
                self._configuration = self._load()
            except StartupError as error:
                log.error("the former certificate stays in use: %s", error.text())  # noqa: TRY400 - the text says all
                return None
            log.info("the certificate in %s is in use", self._files.certificate)
            return self._configuration

    def _load(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        pair = read_pair(files.certificate, files.key)
        authorities = read_authorities(files.client_ca) if files.client_ca else None
        self._note(pair)
        return grpc.ssl_server_certificate_configuration([(pair.key, pair.chain)], authorities)

    def _note(self, pair: Pair) -> None:
        if self._expiry is not None:
            self._expiry.set(pair.expires.timestamp())


def expiry_gauge(registry: CollectorRegistry) -> Gauge:
    """The gauge of a server with TLS."""
    return Gauge(
        "saeserve_tls_certificate_expiry_timestamp_seconds",
        "When the server's certificate expires, in seconds since the epoch; absent without TLS.",
        registry=registry,
    )


def _signature(files: TlsFiles) -> _Signature:
    """Changes when a file does; of a link, when it points elsewhere."""
    return tuple(_state(path) for path in files.paths())


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_ino, seen.st_mtime_ns, seen.st_size
