"""How the SDK gets into a deployment: the certificates that it trusts and shows, and its token."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from saeserve.client.errors import InvalidArgumentError


@dataclass(frozen=True)
class Access:
    """PEM files for TLS, and a token. All empty: plain gRPC without a token, as servers on this
    machine's loopback answer.

    `ca` holds the CA of the servers' certificates; without it an https:// address is checked by the
    CAs that gRPC brings. `certificate` and `key` are shown to servers with mutual TLS.

    The token is sent with every call, over TLS or to this machine only. `token_file` is read again
    when it changes, so that a new token needs no new client.

    >>> access = Access(ca=Path("ca.pem"), token_file=Path("token"))
    >>> client = Client("https://control.example:7070", access=access)
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str = field(default="", repr=False)
    token_file: Path | None = None

    @property
    def has_token(self) -> bool:
        """Whether calls are made with a token."""
        return bool(self.token) or self.token_file is not None

    def credentials(self) -> grpc.ChannelCredentials:
        """Credentials of a TLS channel.

        Raises InvalidArgumentError for files that cannot be read or do not belong together.

        >>> credentials = Access(ca=Path("ca.pem")).credentials()
        """
        authorities = None if self.ca is None else _read(self.ca, "ca")
        if authorities is not None:
            _check_authorities(authorities, self.ca)
        if (self.certificate is None) != (self.key is None):
            raise _wrong("a certificate and its key belong together", "certificate", "give both")
        if self.certificate is None or self.key is None:
            return grpc.ssl_channel_credentials(authorities)
        chain, key = _read(self.certificate, "certificate"), _read(self.key, "key")
        _check_pair(self.certificate, self.key)
        return grpc.ssl_channel_credentials(authorities, key, chain)


PLAIN = Access()


def _read(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _wrong(
            f"{path} cannot be read: {error.strerror}", field, "correct the path"
        ) from error


def _check_authorities(authorities: bytes, path: Path | None) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(
            cadata=authorities.decode("ascii")
        )
    except (ssl.SSLError, ValueError):
        raise _wrong(
            f"{path} holds no CA certificate in PEM form", "ca", "take the CA of the servers"
        ) from None


def _check_pair(certificate: Path, key: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            certificate, key, password=lambda: b""
        )
    except ssl.SSLError:
        raise _wrong(
            f"{certificate} and {key} are not a certificate and its key in PEM form",
            "certificate",
            "take a key without a passphrase, and the certificate that belongs to it",
        ) from None


def _wrong(message: str, field: str, remedy: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, reason="BAD_TLS_FILE", field=field, remedy=remedy)
