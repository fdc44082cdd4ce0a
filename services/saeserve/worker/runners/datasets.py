"""Data sets as runners open and commit them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from saeserve.core.data.dataset import HeldoutRows, ShardedDataset, SourceNames
from saeserve.core.data.splitting import misses
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.core.specs.jobs import HarvestSpec, IngestSpec
from saeserve.jobs.record import JobWarning, Output
from saeserve.worker.runners.base import Completed, RunContext

_ROWS_A_BATCH = 2048

Making = HarvestSpec | IngestSpec
"""The specs of jobs that make a data set."""


def open_dataset(context: RunContext, name: str) -> ShardedDataset:
    """The READY data set `name`. Raises NotFound, FailedPrecondition (not READY) and DataError."""
    context.datasets.manifest(name)
    return ShardedDataset.open(context.datasets.get(name).folder)


def heldout(
    context: RunContext,
    dataset: ShardedDataset,
    source: SourceNames,
    norm_cut: float,
    max_rows: int,
) -> Iterator[HeldoutRows]:
    """Held-out rows batch by batch, several sources side by side; raises JobStopped between two
    when asked to stop."""
    for rows in dataset.heldout(source, norm_cut=norm_cut, max_rows=max_rows, batch=_ROWS_A_BATCH):
        context.check_stop()
        yield rows


def begin_dataset(context: RunContext, spec: Making) -> Path | Completed:
    """The attempt's own folder to make the data set in; or all of it, when an earlier attempt of
    this job had completed it before it could say so.

    Raises NotFound, FailedPrecondition (it has FAILED) and Conflict (another job makes it).
    """
    name, job, epoch = spec.dataset, context.submission.id, context.order.claim.epoch
    manifest = context.datasets.get(name).manifest
    if manifest is not None and manifest.job == job:
        return _completed(context, spec, manifest)
    context.check_fence()
    folder = context.datasets.begin(name, job, epoch)
    offered = context.datasets.making.offered(name, job, epoch)
    if offered is None:
        return folder
    return _completed(context, spec, DatasetManifest.from_bytes(offered))


def commit_dataset(context: RunContext, spec: Making, manifest: DatasetManifest) -> Completed:
    """Offer the data set: the job's result makes it READY. Each attempt offers the same bytes."""
    complete = manifest.model_copy(
        update={
            "job": context.submission.id,
            "code_version": version("saeserve"),
            "created": datetime.fromtimestamp(context.submission.created, UTC).isoformat(),
        }
    )
    context.check_fence()
    claim = context.order.claim
    context.datasets.making.offer(complete.name, claim.job, claim.epoch, complete.to_bytes())
    context.report.log(f"data set {complete.name} is complete: {complete.rows} rows")
    return _completed(context, spec, complete)


def _warned(context: RunContext, spec: Making, manifest: DatasetManifest) -> tuple[JobWarning, ...]:
    """Says where whole documents came nowhere near the fraction that was to be held out."""
    if not misses(manifest.heldout_rows, manifest.rows, spec.heldout_fraction):
        return ()
    warning = JobWarning(
        code="HELDOUT_MISSED",
        message=f"{manifest.heldout_rows / manifest.rows:.1%} of the rows are held out where "
        f"heldout_fraction asks for {spec.heldout_fraction:.1%}: documents are held out whole, "
        "and no choice of them comes nearer; give more and shorter documents",
    )
    context.report.warning(0, warning.code, warning.message)
    return (warning,)


def _completed(context: RunContext, spec: Making, manifest: DatasetManifest) -> Completed:
    metrics = {
        "rows": float(manifest.rows),
        "heldout_rows": float(manifest.heldout_rows),
        "documents": float(len(manifest.documents)),
        "bytes": float(sum(file.size_bytes for file in manifest.files)),
        "massive_rows": float(max(source.massive_rows for source in manifest.sources)),
    }
    output = Output(
        dataset=manifest.name, metrics=metrics, warnings=_warned(context, spec, manifest)
    )
    return Completed(outputs=(output,), steps=manifest.rows)
