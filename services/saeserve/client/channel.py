"""gRPC channels as the SDK opens them."""

from __future__ import annotations

import grpc

MESSAGE_LIMIT = 64 * 2**20
"""What servers accept (DESIGN section 3, Tensors)."""

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_receive_message_length", MESSAGE_LIMIT),
    ("grpc.max_send_message_length", MESSAGE_LIMIT),
    # gRPC retries only what never reached the server; we never retry blindly.
    ("grpc.enable_retries", 1),
    # A server that vanished without a word would hold a stream for ever.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def open_channel(address: str, tls: grpc.ChannelCredentials | None) -> grpc.Channel:
    """A lazy channel to `address` (host:port or unix:path); plaintext unless `tls` is given."""
    if tls is None:
        return grpc.insecure_channel(address, options=_OPTIONS)
    return grpc.secure_channel(address, tls, options=_OPTIONS)
