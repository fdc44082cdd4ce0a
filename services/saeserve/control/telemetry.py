"""Looks at what the control service depends on: the artifact store's disk, and Redis."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from saeserve.errors import Unavailable
from saeserve.platform.store import ArtifactStore
from saeserve.platform.store_errors import store_unavailable

log = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
EXPECTED_REASONS = ("STORE_UNAVAILABLE", "DISK_FULL")
"""Reasons of store errors whose counters stand at 0 before a first one."""


@dataclass(frozen=True)
class RedisFigures:
    """What a Redis or Valkey server says of itself."""

    used_memory_bytes: int
    max_memory_bytes: int
    """0: as much as there is."""
    persistence_ok: bool
    """Whether its last write to the append-only file, and its last rewrite, succeeded."""


class TelemetryMetrics:
    """Gauges of store and Redis."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"saeserve_{name}", text, registry=registry)

        self.free = gauge("store_free_bytes", "Bytes free on the disk of the artifact store.")
        self.size = gauge("store_size_bytes", "Size of the disk of the artifact store.")
        self.store_up = gauge(
            "store_up", "1 while the artifact store is there and can be written, else 0."
        )
        self.store_errors = Counter(
            "saeserve_store_errors_total",
            "Looks at the artifact store that failed, and rounds of the reconciler that could not "
            "work on it, by reason.",
            ("reason",),
            registry=registry,
        )
        self.redis_up = gauge("redis_up", "1 while Redis or Valkey answers, else 0.")
        self.redis_used = gauge("redis_memory_used_bytes", "Memory that Redis or Valkey uses.")
        self.redis_limit = gauge(
            "redis_memory_limit_bytes", "Most memory that it may use; 0 where nothing limits it."
        )
        self.persistence = gauge(
            "redis_persistence_ok",
            "1 while its last write and rewrite of the append-only file succeeded, else 0.",
        )
        for reason in EXPECTED_REASONS:
            self.store_errors.labels(reason)


class Telemetry:
    """Call `look` after every round; it looks every few seconds. For one thread."""

    def __init__(
        self,
        store: ArtifactStore,
        redis: Callable[[], RedisFigures],
        metrics: TelemetryMetrics,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`redis` asks the server; it raises Unavailable when that does not answer."""
        self._store = store
        self._redis = redis
        self._metrics = metrics
        self._monotonic = monotonic
        self._next = 0.0
        self._writable = True

    def look(self) -> None:
        """Set the gauges, unless they were set a moment ago. Raises nothing: what does not answer
        is a figure as well."""
        if self._monotonic() < self._next:
            return
        self._look_at_store()
        self._look_at_redis()
        self._next = self._monotonic() + LOOK_EVERY_S

    def note_store(self, error: Unavailable | None) -> None:
        """Take in what a round of the reconciler met; None: it worked on the store. A round that
        had nothing to write does not see that nothing can be written."""
        self._metrics.store_up.set(error is None and self._writable)
        if error is not None:
            self._metrics.store_errors.labels(error.code).inc()

    def _look_at_store(self) -> None:
        try:
            space = self._store.space()
        except OSError as error:
            log.debug("the disk of the store does not answer: %s", error)
            self.note_store(store_unavailable(str(error)))
            return
        self._metrics.free.set(space.free)
        self._metrics.size.set(space.total)
        self._look_whether_it_can_be_written()

    def _look_whether_it_can_be_written(self) -> None:
        try:
            self._store.check_writable()
        except (OSError, Unavailable) as error:
            self._writable = False
            self.note_store(store_unavailable(str(error)))
        else:
            self._writable = True

    def _look_at_redis(self) -> None:
        metrics = self._metrics
        try:
            seen = self._redis()
        except Unavailable as error:
            log.debug("no figures of Redis: %s", error)
            metrics.redis_up.set(0)
            return
        metrics.redis_up.set(1)
        metrics.redis_used.set(seen.used_memory_bytes)
        metrics.redis_limit.set(seen.max_memory_bytes)
        metrics.persistence.set(seen.persistence_ok)


def redis_figures(info: Mapping[str, object]) -> RedisFigures:
    """The figures in an answer to INFO; what a server does not say counts as 0, and as well."""
    words = ("aof_last_write_status", "aof_last_bgrewrite_status")
    return RedisFigures(
        used_memory_bytes=int(str(info.get("used_memory", 0))),
        max_memory_bytes=int(str(info.get("maxmemory", 0))),
        persistence_ok=all(info.get(word, "ok") == "ok" for word in words),
    )
