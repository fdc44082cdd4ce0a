"""A harvest: language model and text in, a data set of activations out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from saeserve.core.data.finishing import SourceOrigin, finish_manifest
from saeserve.core.data.sums import with_sums
from saeserve.core.data.writer import DatasetWriter
from saeserve.core.formats.manifest import ContextsEntry, DatasetManifest
from saeserve.core.specs.jobs import HarvestSpec
from saeserve.core.specs.sites import SiteSpec
from saeserve.core.specs.training import Device
from saeserve.errors import SpecError
from saeserve.harvest.documents import Resolve
from saeserve.harvest.events import (
    HarvestEvent,
    HarvestFinished,
    HarvestProgress,
    HarvestResolved,
    HarvestStopped,
)
from saeserve.harvest.handover import handing_over
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.plan import Plan, heldout_of, planned_sequences, survey
from saeserve.harvest.probe import check_rows
from saeserve.harvest.recorded import bind
from saeserve.harvest.rows import drop_first, forward_rows
from saeserve.harvest.sequences import Tokenization, batches
from saeserve.harvest.space import check_space, estimate_bytes
from saeserve.harvest.stored_contexts import write_contexts
from saeserve.harvest.tokenization import tokenization_entry, tokenization_of

PROGRESS_SECONDS = 1.0
"""Least time between two progress events."""
Stop = Callable[[], bool]


def run_harvest(
    spec: HarvestSpec, resolve: Resolve, folder: Path, stop: Stop
) -> Iterator[HarvestEvent]:
    """Harvest `spec` into `folder`, all sites in one pass over the text.

    Memory stays bounded by a shard and a batch. What whole shards hold already is not computed
    again, and a harvest that went on after an interruption holds the same bytes as one that was
    never interrupted. Ends with HarvestFinished, or with HarvestStopped once `stop()` is true.
    `resolve` turns root:relative into a path. Raises SpecError, DataError, NoSpaceError.
    """
    run = _prepare(spec, resolve, folder)
    if spec.context_length is None:
        yield HarvestResolved(run.tokenization.context_length)
    plan = survey(run.spec, run.tokenization, resolve, stop)
    if plan is None:
        yield HarvestStopped(0, 0)
        return
    writer = _open_writer(run, resolve, folder, plan)
    total = plan.rows
    yield HarvestProgress(writer.rows_done, total, 0.0)
    for event in _forward_all(run, resolve, plan, writer, stop):
        yield event
        if isinstance(event, HarvestStopped):
            return
    writer.close()
    contexts = _contexts(run, resolve, folder, plan)
    complete = with_sums(folder, _manifest(run, folder, plan, writer, contexts), stop)
    if complete is None:
        yield HarvestStopped(writer.rows_done, total)
    else:
        yield HarvestFinished(complete)


@dataclass(frozen=True)
class _Run:
    spec: HarvestSpec
    model: LanguageModel
    tokenization: Tokenization

    @property
    def widths(self) -> dict[str, int]:
        return {site.source: self.model.width(site) for site in self.spec.sites}


def resolve_device(wanted: Device) -> torch.device:
    """`auto` takes CUDA where there is a device. Raises SpecError for cuda without one."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise SpecError("device", "this worker has no CUDA device", remedy="set device = cpu")
    return torch.device("cuda" if available and wanted != "cpu" else "cpu")


def _prepare(spec: HarvestSpec, resolve: Resolve, folder: Path) -> _Run:
    folder.mkdir(parents=True, exist_ok=True)
    source = spec.language_model
    model = LanguageModel.load(
        resolve(source.path), source.gguf_file, resolve_device(spec.device), spec.compute_dtype
    )
    length = spec.context_of(model.positions)
    model.check_context(length)
    check_rows(model, spec.sites)
    settled = spec.with_context(length)
    return _Run(settled, model, tokenization_of(settled, model.tokenizer, length))


def _open_writer(run: _Run, resolve: Resolve, folder: Path, plan: Plan) -> DatasetWriter:
    spec = run.spec
    writer = DatasetWriter(folder, run.widths, spec.dtype, spec.shard_rows)
    bind(folder, spec, plan, resolve(spec.language_model.path), writer.rows_done)
    check_space(folder, estimate_bytes(spec, run.widths, plan.rows - writer.rows_done))
    return writer


def _forward_all(
    run: _Run, resolve: Resolve, plan: Plan, writer: DatasetWriter, stop: Stop
) -> Iterator[HarvestProgress | HarvestStopped]:
    """Forward every batch that is not on disk yet; the row stream is the same in every run."""
    spec = run.spec
    origins = [document.origin for document in plan.origins]
    present, position = writer.rows_done, 0
    meter = _Meter(plan.rows)
    sequences = planned_sequences(spec, run.tokenization, resolve, plan)
    with handing_over(writer, spec.dtype, origins, run.model.device) as handover:
        for batch in batches(sequences, spec.batch_sequences):
            start, position = position, position + sum(sequence.rows for sequence in batch)
            if position <= present:
                continue
            if stop():
                handover.finish()
                yield HarvestStopped(writer.rows_done, plan.rows)
                return
            block = drop_first(forward_rows(run.model, batch, spec.sites), present - start)
            handover.add(block)
            if meter.add(block.rows) or position == plan.rows:
                yield meter.event(position)
        handover.finish()


class _Meter:
    def __init__(self, total: int) -> None:
        self._total = total
        self._rows = 0
        self._began = self._told = time.monotonic()

    def add(self, rows: int) -> bool:
        """Count rows; True when it is time to tell."""
        self._rows += rows
        return time.monotonic() - self._told >= PROGRESS_SECONDS

    def event(self, rows_done: int) -> HarvestProgress:
        self._told = time.monotonic()
        rate = self._rows / max(self._told - self._began, 1e-9)
        return HarvestProgress(rows_done, self._total, rate)


def _origin(model: LanguageModel, site: SiteSpec) -> SourceOrigin:
    return SourceOrigin(site.source, model.width(site), site.hook, site.layer, site.head)


def _contexts(
    run: _Run, resolve: Resolve, folder: Path, plan: Plan
) -> tuple[ContextsEntry, ...] | None:
    """The held-out sequences, where the shards do not hold all of their tokens."""
    if run.tokenization.rule.keeps_all:
        return None
    sequences = planned_sequences(run.spec, run.tokenization, resolve, plan)
    return write_contexts(folder, heldout_of(plan, sequences))


def _manifest(
    run: _Run,
    folder: Path,
    plan: Plan,
    writer: DatasetWriter,
    contexts: tuple[ContextsEntry, ...] | None,
) -> DatasetManifest:
    spec, model = run.spec, run.model
    return finish_manifest(
        folder,
        name=spec.dataset,
        sources=[_origin(model, site) for site in spec.sites],
        dtype=spec.dtype,
        shards=writer.shards,
        documents=plan.origins,
        heldout_fraction=spec.heldout_fraction,
        splits=plan.splits,
        language_model=spec.language_model,
        tokenization=tokenization_entry(spec, run.tokenization),
        compute_dtype=model.compute_dtype,
        contexts=contexts,
    )
