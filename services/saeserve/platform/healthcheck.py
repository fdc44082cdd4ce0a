"""`python -m saeserve.platform.healthcheck ADDRESS [SERVICE]`: whether a service answers.

For container health checks, with nothing but what every image holds. ADDRESS is host:port or
unix:/path of a gRPC server (SERVICE is its full name there; without it the server as a whole is
meant), or an http:// URL such as a worker's /metrics.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from http.client import HTTPException
from urllib.request import ProxyHandler, build_opener

import grpc
from grpc_health.v1 import health_pb2

TIMEOUT_S = 5.0
HEALTHY, UNHEALTHY, MISUSED = 0, 1, 2
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
    with grpc.insecure_channel(address, options=_CHANNEL_OPTIONS) as channel:
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


def _probe_http(url: str, timeout_s: float) -> str:
    try:
        with build_opener(ProxyHandler({})).open(url, timeout=timeout_s) as answer:
            answer.read()
    except (OSError, HTTPException) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
