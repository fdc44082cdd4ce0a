"""The token that the SDK sends with every call."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from saeserve.client.errors import InvalidArgumentError, client_error

_LIMITED = "RATE_LIMITED"
_PATIENCE_S = 60.0
_TOKEN = re.compile(r"sae_[0-9a-f]{16}_[0-9a-f]{64}")


class TokenSource:
    """A token, or the one that a file holds now."""

    def __init__(self, token: str, file: Path | None) -> None:
        """Raises InvalidArgumentError for both, for a file without a token, and for a malformed
        token; the error shows neither."""
        if token and file is not None:
            raise _wrong("a token and a file with one are given", "give one of them")
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._token = _checked(token, "the token") if file is None else ""
        self.token()

    def token(self) -> str:
        """The token. Raises InvalidArgumentError as the constructor does."""
        if self._file is None:
            return self._token
        try:
            state = os.stat(self._file)
            seen = (state.st_ino, state.st_mtime_ns, state.st_size)
            if seen != self._seen:
                self._token = _checked(self._file.read_text().strip(), f"the text in {self._file}")
                self._seen = seen
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not text"
            raise _wrong(f"{self._file} cannot be read: {why}", "correct the path") from None
        return self._token


class _Details(NamedTuple):
    """A call's details with more metadata."""

    method: str
    timeout: float | None
    metadata: Sequence[tuple[str, str | bytes]] | None
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class TokenInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Adds the token to the metadata of every call.

    gRPC's own call credentials would start a thread for each call to ask for it.
    """

    def __init__(self, source: TokenSource) -> None:
        self._source = source

    def intercept_unary_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.ClientCallDetails,
        request: object,
    ) -> Any:  # noqa: ANN401 - gRPC's stubs leave calls untyped
        """Intercept a unary call. A call that the token's limits refused was not begun, so it is
        repeated after the delay that the server asks for, within the call's timeout."""
        details: Any = client_call_details
        until = time.monotonic() + (details.timeout or _PATIENCE_S)
        while True:
            answer = continuation(self._bearing(client_call_details), request)
            wait = _asked_to_wait(answer)
            if not wait or time.monotonic() + wait > until:
                return answer
            time.sleep(wait)

    def intercept_unary_stream(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.ClientCallDetails,
        request: object,
    ) -> Any:  # noqa: ANN401 - as above
        """Intercept a streaming call: add the token; a refused call is not repeated."""
        return continuation(self._bearing(client_call_details), request)

    def intercept_stream_unary(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: object,
    ) -> Any:  # noqa: ANN401 - as above
        """Intercept a streaming call: add the token; a refused call is not repeated."""
        return continuation(self._bearing(client_call_details), request_iterator)

    def intercept_stream_stream(
        self,
        continuation: Callable[..., Any],
        client_call_details: grpc.ClientCallDetails,
        request_iterator: object,
    ) -> Any:  # noqa: ANN401 - as above
        """Intercept a streaming call: add the token; a refused call is not repeated."""
        return continuation(self._bearing(client_call_details), request_iterator)

    def _bearing(self, details: Any) -> _Details:  # noqa: ANN401 - the stubs lack its fields
        bearer = ("authorization", f"Bearer {self._source.token()}")
        return _Details(
            details.method,
            details.timeout,
            (*(details.metadata or ()), bearer),
            details.credentials,
            details.wait_for_ready,
            details.compression,
        )


def _asked_to_wait(answer: object) -> float:
    """Seconds after which a call that was refused for its rate may come again; 0 for others."""
    if not isinstance(answer, grpc.RpcError):
        return 0.0
    error = client_error(answer, "")
    # Those who were refused together must not all come back together.
    return error.retry_after_s * random.uniform(1.0, 1.2) if error.reason == _LIMITED else 0.0


def _checked(token: str, where: str) -> str:
    if not _TOKEN.fullmatch(token):
        raise _wrong(
            f"{where} is not of the form sae_<16 digits>_<64 digits>",
            "take one that the operator made with: saeserve token create",
        )
    return token


def _wrong(message: str, remedy: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, reason="BAD_TOKEN", field="token", remedy=remedy)
