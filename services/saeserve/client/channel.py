"""gRPC channels as the SDK opens them."""

from __future__ import annotations

import ipaddress

import grpc

from saeserve.client.access import Access
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.tokens import TokenInterceptor, TokenSource

MESSAGE_LIMIT = 64 * 2**20
"""What servers accept (docs/DESIGN.md, "Tensors")."""

_Options = tuple[tuple[str, int | str], ...]

_OPTIONS: _Options = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    # gRPC retries only what never reached the server; we never retry blindly.
    ("grpc.enable_retries", 1),
    # A server that vanished without a word would hold a stream for ever.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)
_TURNS: _Options = (("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),)
_SEVERAL = ("dns:", "ipv4:", "ipv6:")
"""Schemes of addresses that may stand for several servers, such as a headless Service's."""


_SECURE_SCHEMES = ("https://", "grpcs://")
_UNIX = ("unix:", "unix-abstract:")


def open_channel(
    address: str, access: Access, credentials: grpc.ChannelCredentials | None = None
) -> grpc.Channel:
    """A lazy channel to `address` that sends the token of `access` with every call; see
    `open_silently`. Raises InvalidArgumentError where others could read the token."""
    if not access.has_token:
        return open_silently(address, access, credentials)
    interceptor = TokenInterceptor(TokenSource(access.token, access.token_file))
    if credentials is None and secure_target(address, access) is None:
        credentials = _local_credentials(address)
    return grpc.intercept_channel(open_silently(address, access, credentials), interceptor)


def open_silently(
    address: str, access: Access, credentials: grpc.ChannelCredentials | None = None
) -> grpc.Channel:
    """A lazy channel to `address`, host:port or unix:path, which sends no token.

    With TLS where the address is https://host:port, `access` has a CA, or `credentials` are given.
    Raises InvalidArgumentError for TLS files that cannot be.
    """
    target = secure_target(address, access)
    if target is not None:
        return grpc.secure_channel(
            target, credentials or access.credentials(), options=_options(address)
        )
    if credentials is not None:
        return grpc.secure_channel(address, credentials, options=_options(address))
    return grpc.insecure_channel(address, options=_options(address))


def _options(address: str) -> _Options:
    """Servers behind one name take turns. A single one is reached again with the next call: turns
    would leave it aside for some seconds after each restart."""
    return (*_OPTIONS, *_TURNS) if address.startswith(_SEVERAL) else _OPTIONS


def secure_target(address: str, access: Access) -> str | None:
    """What gRPC calls the server at `address` when it is called over TLS; None when it is not.

    A unix socket has no TLS: its file's permissions guard it.
    """
    for scheme in _SECURE_SCHEMES:
        if address.startswith(scheme):
            return address.removeprefix(scheme).removesuffix("/")
    return None if access.ca is None or address.startswith(_UNIX) else address


def _local_credentials(address: str) -> grpc.ChannelCredentials:
    """Credentials without TLS, by which gRPC connects to nothing but this machine. Raises
    InvalidArgumentError."""
    if address.startswith(_UNIX):
        return grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
    if _is_loopback(address):
        return grpc.local_channel_credentials(grpc.LocalConnectionType.LOCAL_TCP)
    raise InvalidArgumentError(
        f"the token is not sent to {address}: without TLS others could read it",
        reason="TOKEN_OVER_PLAINTEXT",
        field="address",
        remedy="give the CA of the server's certificate (SAESERVE_TLS_CA), or the address as "
        "https://host:port",
    )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
