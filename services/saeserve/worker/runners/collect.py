"""Runs a collect job: from a published model and stored rows to a bundle of its features."""

from __future__ import annotations

import time
from pathlib import Path

from saeserve.core.durable import make_folders
from saeserve.core.features.collecting import Collecting, resume, start
from saeserve.core.specs.cadence import CHECKPOINT_S
from saeserve.errors import FailedPrecondition, NotFound
from saeserve.jobs.record import Output
from saeserve.registry.bundles import bundle_key
from saeserve.registry.publication import staged_export
from saeserve.worker.report import Scale
from saeserve.worker.runners.admission import check_collect_memory
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.runners.collect_bundle import Written, write_bundle
from saeserve.worker.runners.collect_subject import CollectSubject, open_subject


def run(context: RunContext) -> Completed:
    """Collect, going on from the last checkpoint; the bundle appears with the job's result."""
    subject = open_subject(context)
    check_collect_memory(subject.memory_bytes)
    passed = _begin(context, subject)
    _collect(context, subject, passed)
    _check_version(context, subject)
    version = subject.version
    key = bundle_key(version.name, version.version, context.submission.id)
    staged = staged_export(context.attempt_key)
    context.store.remove(staged)
    folder = context.store.path(staged)
    make_folders(folder)
    written = _write(context, subject, passed, folder)
    _check_version(context, subject)
    context.report.log(f"features of {version.resource} are collected in {key}")
    metrics = _figures(passed) | written.figures
    output = Output(exported=key, metrics=metrics, warnings=written.warnings)
    return Completed(outputs=(output,), steps=passed.rows_done)


def _write(
    context: RunContext, subject: CollectSubject, passed: Collecting, folder: Path
) -> Written:
    """Write the bundle; a stop meanwhile keeps the pass, and the writing begins again."""
    try:
        return write_bundle(context, subject, passed, folder)
    except JobStopped:
        _save(context, passed)
        raise


def _begin(context: RunContext, subject: CollectSubject) -> Collecting:
    claim, source = context.order.claim, subject.source
    folder = context.store.path(claim.resume) if claim.resume else None
    if folder is None:
        return start(source, subject.vocabulary, subject.spec.seed)
    return resume(source, subject.vocabulary, subject.spec.seed, folder)


def _collect(context: RunContext, subject: CollectSubject, passed: Collecting) -> None:
    """Run to the end; saves now and then, and before it stops. Raises JobStopped, and
    FailedPrecondition for a version that was deleted."""
    saved = time.monotonic()
    for done in passed.run():
        context.report.metrics(done, _figures(passed), Scale("rows", subject.rows))
        stopping = context.stop()
        if stopping or time.monotonic() - saved >= CHECKPOINT_S:
            _check_version(context, subject)
            _save(context, passed)
            saved = time.monotonic()
        if stopping:
            raise JobStopped


def _check_version(context: RunContext, subject: CollectSubject) -> None:
    """Raise FailedPrecondition for a version that was deleted meanwhile: its bundle would be of
    nothing that can be asked."""
    resource = subject.version.resource
    try:
        context.models.locate(resource)
    except NotFound as error:
        raise FailedPrecondition(
            f"{resource} was deleted while its features were collected",
            code="MODEL_DELETED",
            remedy="collect the features of a version that is there",
        ) from error


def _save(context: RunContext, passed: Collecting) -> None:
    def write(folder: Path) -> None:
        passed.save(folder)

    sink = context.ledger.checkpoint_sink(context.order.lease)
    context.report.checkpoint(passed.rows_done, sink.commit(passed.rows_done, write))


def _figures(passed: Collecting) -> dict[str, float]:
    fired = float((passed.state.count_F > 0).mean())
    firings = float(passed.state.count_F.sum())
    return {
        "rows": float(passed.rows_kept),
        "firing_fraction": fired,
        "l0": firings / max(1, passed.rows_kept),
    }
