"""Where a service may listen: loopback and unix sockets, unless settings allow more."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from saeserve.errors import StartupError
from saeserve.platform.startup_errors import insecure_address


@dataclass(frozen=True)
class TcpAddress:
    """A host and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        """host:port, with brackets around an IPv6 host."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def unix_path(address: str) -> Path | None:
    """Path of a `unix:path` or `unix:///path` address; None for other forms."""
    if not address.startswith("unix:"):
        return None
    return Path(address.removeprefix("unix:").removeprefix("//"))


def parse_tcp(address: str) -> TcpAddress:
    """Read host:port. Raises StartupError."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise StartupError(
            f"{address!r} is not a valid address",
            code="BAD_ADDRESS",
            remedy="use host:port, [ipv6]:port or unix:/path",
        )
    return TcpAddress(host.strip("[]"), int(port))


def is_local(address: str) -> bool:
    """Whether only this machine reaches `address`. Raises StartupError for what is none."""
    return unix_path(address) is not None or _is_loopback(parse_tcp(address).host)


def check_allowed(address: str, *, insecure: bool, tls: bool = False) -> None:
    """Refuse what others can reach, unless by `tls` or `insecure`. Raises StartupError."""
    if is_local(address) or tls or insecure:
        return
    raise insecure_address(
        f"{address} can be reached from other machines, and the service has no TLS",
        remedy="set SAESERVE_TLS_CERT and SAESERVE_TLS_KEY, listen on 127.0.0.1 or unix:/path, or "
        "set SAESERVE_INSECURE=true behind a network that you trust",
    )


def why_not_bound(address: str) -> str:
    """The operating system's words for why `address` cannot be bound now."""
    path = unix_path(address)
    if path is not None:
        return f"the socket {path} cannot be made"
    tcp = parse_tcp(address)
    family = socket.AF_INET6 if ":" in tcp.host else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind((tcp.host, tcp.port))
        except OSError as error:
            return os.strerror(error.errno) if error.errno else str(error)
    return "the address cannot be bound"


def is_answered(path: Path) -> bool:
    """Whether a process listens at the unix socket `path`."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
