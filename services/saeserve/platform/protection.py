"""What stands between a server and its callers: TLS, and who may call what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from grpc_health.v1 import health, health_pb2
from grpc_reflection.v1alpha import reflection

from saeserve.platform.audit_log import AuditLog
from saeserve.platform.auth.rules import ANY_TOKEN, OPEN, Rule
from saeserve.platform.auth.token_store import TokenStore
from saeserve.platform.auth.verifier import TokenVerifier
from saeserve.platform.metrics import Metrics
from saeserve.platform.settings import ServiceSettings
from saeserve.platform.store import ArtifactStore
from saeserve.platform.tls_files import TlsFiles

if TYPE_CHECKING:
    from saeserve.platform.tls import ServerTls


@dataclass(frozen=True)
class Protection:
    """TLS, and what knows tokens: without either a server answers everyone on this machine. `audit`
    takes a line for every call that changes something."""

    tls: ServerTls | None = None
    verifier: TokenVerifier | None = None
    audit: AuditLog | None = None


NO_PROTECTION = Protection()


def protection(
    settings: ServiceSettings, address: str, store: ArtifactStore, metrics: Metrics
) -> Protection:
    """Build for a server at `address`; `store` has the tokens. Raises StartupError."""
    verifier = TokenVerifier(TokenStore(store)) if settings.asks_tokens(address) else None
    audit = AuditLog(store, settings.audit_days)
    return Protection(server_tls(settings.tls, metrics), verifier, audit)


def server_tls(files: TlsFiles | None, metrics: Metrics) -> ServerTls | None:
    """TLS of the files, if any. Raises StartupError for files that cannot serve."""
    if files is None:
        return None
    # Loads the library that reads certificates, which nothing but TLS needs.
    from saeserve.platform.tls import ServerTls

    return ServerTls(files, metrics.registry)


def method_rules(services: Iterable[tuple[str, Mapping[str, Rule]]]) -> dict[str, Rule]:
    """Rule of each method by its full name: health checks need no token, reflection any token."""
    rules = {
        f"/{name}/{method}": rule for name, known in services for method, rule in known.items()
    }
    # The stubs lack the descriptors of this module.
    checks = cast(Any, health_pb2).DESCRIPTOR.services_by_name["Health"].methods
    rules |= {f"/{health.SERVICE_NAME}/{each.name}": OPEN for each in checks}
    return {**rules, f"/{reflection.SERVICE_NAME}/ServerReflectionInfo": ANY_TOKEN}
