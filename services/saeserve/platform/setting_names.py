"""Every variable that a service or the command line reads: so that a misspelt one is noticed.

A test holds the list equal to the fields of all settings classes, which the platform cannot import.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator

PREFIX = "SAESERVE_"

FIELDS = frozenset(
    [
        "audit_days",
        "auth",
        "auto_class",
        "broker_port",
        "broker_server",
        "checkpoint_hours",
        "client_cert",
        "client_key",
        "control_address",
        "control_metrics_address",
        "disk_reserve_bytes",
        "event_seconds",
        "explorer_address",
        "explorer_hosts",
        "explorer_metrics_address",
        "explorer_timeout_seconds",
        "gpu_kernels",
        "grace_seconds",
        "inference_address",
        "inference_device",
        "inference_max_batch_rows",
        "inference_metrics_address",
        "inference_model_cache_bytes",
        "inference_queue_rows",
        "inference_threads",
        "insecure",
        "leader_seconds",
        "lease_seconds",
        "log_format",
        "log_level",
        "max_attempts",
        "max_calls",
        "metrics_open",
        "reconcile_seconds",
        "redis_password_file",
        "redis_url",
        "retry_seconds",
        "revision",
        "roots",
        "run",
        "stall_factor",
        "stall_minimum_seconds",
        "standby",
        "stop_grace_seconds",
        "store",
        "sweep_after_seconds",
        "sweep_seconds",
        "tls_ca",
        "tls_cert",
        "tls_client_ca",
        "tls_key",
        "token",
        "token_file",
        "torch_threads",
        "transfers",
        "umask",
        "upload_hours",
        "watch_seconds",
        "worker_classes",
        "worker_metrics_address",
    ]
)
"""Fields of all settings classes."""

_INJECTED = re.compile(r"_(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP)(_\w+)?)?)$")
"""Kubernetes gives every container such variables, named after the services of its namespace."""


def misspelt(variables: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Variables with our prefix that nothing reads, each with the most similar one that is read,
    or ""."""
    known = {PREFIX + name.upper() for name in FIELDS}
    for name in sorted(variables):
        if name.startswith(PREFIX) and name not in known and not _INJECTED.search(name):
            near = difflib.get_close_matches(name, known, 1, 0.8)
            yield name, near[0] if near else ""
