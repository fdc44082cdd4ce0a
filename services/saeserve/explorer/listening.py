"""Where the explorer listens, and its TLS, which follows the files."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

from saeserve.errors import StartupError
from saeserve.platform.address import TcpAddress, is_answered, parse_tcp, unix_path
from saeserve.platform.secret_files import warn_of_readers
from saeserve.platform.startup_errors import address_in_use
from saeserve.platform.tls_files import TlsFiles

LOOK_EVERY_S = 5.0
BACKLOG = 128

log = logging.getLogger(__name__)


@contextlib.contextmanager
def bound_socket(address: str) -> Generator[socket.socket]:
    """A listening socket at host:port or unix:path, closed at the end. Raises StartupError."""
    path = unix_path(address)
    try:
        made = _tcp_socket(address) if path is None else _unix_socket(path)
    except OSError as error:
        message = f"pages cannot be served at {address}: {error.strerror}"
        raise address_in_use(message, "SAESERVE_EXPLORER_ADDRESS") from error
    try:
        yield made
    finally:
        made.close()
        if path is not None:
            path.unlink(missing_ok=True)


def _tcp_socket(address: str) -> socket.socket:
    wanted = parse_tcp(address)
    family = socket.AF_INET6 if ":" in wanted.host else socket.AF_INET
    return socket.create_server((wanted.host, wanted.port), family=family, backlog=BACKLOG)


def _unix_socket(path: Path) -> socket.socket:
    if path.exists() and not is_answered(path):
        path.unlink()  # what a process that was killed left behind
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(BACKLOG)
    return made


def url_of(address: str, listener: socket.socket, tls: TlsFiles | None) -> str:
    """Where a browser finds what `listener` answers."""
    if unix_path(address) is not None:
        return address
    port = listener.getsockname()[1]
    return f"{'https' if tls else 'http'}://{TcpAddress(parse_tcp(address).host, port)}"


@dataclass
class Certificates:
    """A server's TLS context and the files that it was made of."""

    files: TlsFiles
    context: ssl.SSLContext
    expiry: Gauge
    seen: tuple[int, ...] = ()

    def load(self) -> None:
        """Let new connections have what the files hold. Raises StartupError."""
        # Loads the library that reads certificates, which nothing but TLS needs.
        from saeserve.platform.certificates import read_pair

        pair = read_pair(self.files.certificate, self.files.key)
        self.context.load_cert_chain(self.files.certificate, self.files.key)
        self.expiry.set(pair.expires.timestamp())

    def renew(self) -> None:
        """Take files that have changed; such as cannot serve are logged once, and change
        nothing."""
        signature = _signature(self.files)
        if signature == self.seen:
            return
        self.seen = signature
        try:
            self.load()
        except (StartupError, OSError) as error:
            log.error("the former certificate stays in use: %s", error)  # noqa: TRY400 - the text says all


def certificates(files: TlsFiles | None, registry: CollectorRegistry) -> Certificates | None:
    """TLS of the files, if any. Raises StartupError for files that cannot serve."""
    if files is None:
        return None
    # As above.
    from saeserve.platform.tls import expiry_gauge

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    made = Certificates(files, context, expiry_gauge(registry), _signature(files))
    made.load()
    if files.client_ca is not None:
        context.load_verify_locations(files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    warn_of_readers(files.key)
    return made


async def follow_renewals(held: Certificates) -> None:
    """Look for renewed files until cancelled."""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        await asyncio.to_thread(held.renew)


def _signature(files: TlsFiles) -> tuple[int, ...]:
    """Changes when a file does; a file that is away changes it too."""
    found = [path.stat() if path.exists() else None for path in files.paths()]
    return tuple(
        number for each in found if each for number in (each.st_ino, each.st_mtime_ns, each.st_size)
    )
