"""Applying a job's result to what it made. The result is the commit; this makes it be seen.

Whoever commits or finds a result calls `apply`, before the index hears of the job's end. It may
be called by several at once and again, and a crash between result and `apply` is made good by the
next caller. Data sets and model versions can be seen without it as well.
"""

from __future__ import annotations

import logging

from saeserve.core.durable import make_folders, sync
from saeserve.core.specs.jobs import JobSpec
from saeserve.errors import DamagedError, SpecError
from saeserve.platform.store import ArtifactStore
from saeserve.registry.bundles import Bundles, version_of
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.outcomes import Outcome, job_of, outcome_of
from saeserve.registry.references import parse_reference
from saeserve.registry.visibility import Visibility

_log = logging.getLogger("saeserve.registry")


def staged_export(attempt_key: str) -> str:
    """Store key of the folder in which an attempt puts its export together."""
    return f"{attempt_key}/exported"


class Publication:
    """Publishes what results name, and removes what they do not."""

    def __init__(self, store: ArtifactStore, datasets: DatasetRegistry) -> None:
        self._store = store
        self._datasets = datasets
        self._visible = Visibility(store)
        self._bundles = Bundles(store)

    def apply(self, job: str) -> None:
        """Act on the result of `job`; nothing while it has none.

        Raises OSError, Unavailable (DISK_FULL) and DamagedError; then call it again.
        """
        outcome = outcome_of(self._store, job)
        if outcome is None:
            return
        self._publish(job, outcome)
        try:
            spec = self._spec(job)
        except (SpecError, DamagedError) as error:
            _log.warning("%s: what it left unpublished is not removed: %s", job, error)
            return
        if spec is not None:
            self._settle(job, spec)

    def _publish(self, job: str, outcome: Outcome) -> None:
        for output in outcome.made:
            if output.model:
                version = parse_reference(output.model)
                self._visible.reveal(version.name, version.version)
            if output.exported:
                staged = staged_export(f"jobs/{job}/attempts/{outcome.epoch}")
                self._export(staged, output.exported)

    def _export(self, staged: str, key: str) -> None:
        """Make an export appear; a bundle goes with the version that it is of, also when that is
        deleted in this moment."""
        _move(self._store, staged, key)
        version = version_of(key)
        if version is not None and not self._visible.of(*version):
            self._bundles.remove(*version)

    def _spec(self, job: str) -> JobSpec | None:
        submitted = job_of(self._store, job)
        return None if submitted is None else JobSpec.parse(submitted.resolved_spec, "")

    def _settle(self, job: str, spec: JobSpec) -> None:
        """Data sets become READY or FAILED, and models that no result names go."""
        if spec.chosen.makes_dataset:
            self._datasets.settle(spec.chosen.makes_dataset, job)
        for model in spec.chosen.publishes:
            self._visible.withdraw(model, job)


def _move(store: ArtifactStore, source: str, target: str) -> None:
    """Rename a folder unless the target is there: an export of a version is always the same."""
    if store.exists(target) or not store.exists(source):
        return
    path = store.path(target)
    make_folders(path.parent)
    try:
        store.path(source).rename(path)
    except OSError:
        if not path.exists():
            raise
    sync(path.parent)
