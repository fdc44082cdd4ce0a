"""`python -m saeserve.platform.healthcheck ADDRESS [SERVICE]`: whether a service answers.

For container health checks, with nothing but what every image holds. ADDRESS is host:port,
https://host:port (with TLS) or unix:/path of a gRPC server (SERVICE is its full name there; without
it the server as a whole is meant), or an http:// URL such as a worker's /metrics or /readyz.

host:port has TLS where the service's own settings say so (SAESERVE_TLS_CERT). Under mutual TLS the
probe shows the certificate of SAESERVE_CLIENT_CERT and SAESERVE_CLIENT_KEY, or the service's own.
"""

from __future__ import annotations

import ssl
import sys
from collections.abc import Sequence
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import grpc
from grpc_health.v1 import health_pb2

from saeserve.errors import ServiceError
from saeserve.platform.address import parse_tcp, unix_path
from saeserve.platform.settings import ClientSettings

TIMEOUT_S = 5.0
HEALTHY, UNHEALTHY, MISUSED = 0, 1, 2
_MOST_WORDS = 500
"""Bytes of an answer that is shown."""
# The probe means the process at that very address, whatever proxies the environment names.
_CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 healthy, 1 not (one line on stderr says why), 2 wrong arguments."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write(f"{__doc__}")
        return MISUSED
    address, service = arguments[0], "".join(arguments[1:])
    why_not = probe(address, service)
    if why_not:
        sys.stderr.write(f"{address}: {why_not}\n")
        return UNHEALTHY
    return HEALTHY


def probe(address: str, service: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """Why what listens at `address` is not healthy; "" when it is."""
    if address.startswith("http://"):
        return _probe_http(address, timeout_s)
    return _probe_grpc(address, service, timeout_s)


def _probe_grpc(address: str, service: str, timeout_s: float) -> str:
    request = health_pb2.HealthCheckRequest(service=service)
    try:
        opened = _open(address, timeout_s)
    except (OSError, ValueError, ServiceError) as error:
        return str(error)
    with opened as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = check(request, timeout=timeout_s)
        except grpc.RpcError as error:
            return error.code().name if isinstance(error, grpc.Call) else "no answer"
    state = health_pb2.HealthCheckResponse
    return "" if answer.status == state.SERVING else state.ServingStatus.Name(answer.status)


def _open(address: str, timeout_s: float) -> grpc.Channel:
    """A channel to `address`. Raises OSError where nobody answers, ServiceError."""
    settings = ClientSettings.load()
    target = address.removeprefix("https://")
    if target == address and (settings.tls is None or unix_path(address) is not None):
        return grpc.insecure_channel(target, options=_CHANNEL_OPTIONS)
    # Loads the library that reads certificates, which nothing but TLS needs.
    from saeserve.platform.certificates import host_of, read_file

    # The probe asks whether the process at this address is alive, and trusts whoever it is: its
    # certificate need not name the address, nor its CA be known here.
    at = parse_tcp(target)
    shown = ssl.get_server_certificate((at.host, at.port), timeout=timeout_s).encode()
    certificate = settings.client_cert or settings.tls_cert
    key = settings.client_key or settings.tls_key
    credentials = grpc.ssl_channel_credentials(
        shown, read_file(key) if key else None, read_file(certificate) if certificate else None
    )
    options = (*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", host_of(shown)))
    return grpc.secure_channel(target, credentials, options=options)


def _probe_http(url: str, timeout_s: float) -> str:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout_s) as answer:
            answer.read()
    except HTTPError as error:
        return f"{error}: {error.read(_MOST_WORDS).decode(errors='replace').strip()}"
    except (OSError, HTTPException) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
