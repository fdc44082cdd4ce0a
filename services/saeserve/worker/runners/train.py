"""Runs a train job: from a READY data set to a published model version."""

from __future__ import annotations

import dataclasses
from contextlib import closing

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.lane import Lane, lane_to
from saeserve.core.data.preprocess import SideBySide, fit_side_by_side, from_sums
from saeserve.core.data.source import ShardSource
from saeserve.core.data.sums import read_sums
from saeserve.core.formats.train_sources import Layout, layout_of
from saeserve.core.gpu.device import refuse
from saeserve.core.planning.sizes import training_data
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import Stopped
from saeserve.core.training.feed import Pace
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.trainer import Trainer
from saeserve.worker.curves import keep_curves
from saeserve.worker.runners.admission import check_memory
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.runners.datasets import open_dataset
from saeserve.worker.runners.devices import device_of, settle_torch
from saeserve.worker.runners.train_checkpoints import (
    CompleteSink,
    load_preprocessing,
    recorded_threads,
)
from saeserve.worker.runners.train_events import tell, warn_before
from saeserve.worker.runners.train_export import Trained, publish
from saeserve.worker.runners.train_init import initial_form
from saeserve.worker.runners.train_resolved import keep_resolution
from saeserve.worker.runners.train_speed import Rates, record_speed
from saeserve.worker.runners.train_sweep import Ground, run_sweep


def run(context: RunContext) -> Completed:
    """Train, evaluate on held-out rows, export, publish; with a sweep every member of it. The
    curves are kept however the attempt ends."""
    try:
        return _run(context)
    finally:
        keep_curves(context, context.submission.resolved_spec["train"]["model"])


def _run(context: RunContext) -> Completed:
    claim = context.order.claim
    resume = context.store.path(claim.resume) if claim.resume else None
    settle_torch(recorded_threads(resume) if resume else context.order.torch_threads)
    if not context.order.gpu_kernels:
        refuse("the setting gpu_kernels is off")
    dataset, layout, spec = _resolved(context)
    keep_resolution(context, spec, layout)
    device = device_of(context.submission.resource_class)
    check_memory(spec, layout, dataset, device)
    lane = lane_to(device)
    if resume is None:
        warn_before(context, layout.members(spec), training_data(layout, dataset.manifest))
    source = _source(dataset, layout, spec)
    preprocessing = (
        load_preprocessing(resume)
        if resume
        else _preprocessing(context, dataset, source, layout, spec, lane)
    )
    if spec.sweep is not None:
        return run_sweep(context, Ground(spec, dataset, layout, source, preprocessing), resume)
    setup = _setup(spec, layout, source, preprocessing, lane)
    setup = dataclasses.replace(setup, data_sha256=dataset.manifest.sha256)
    if resume is None:
        initial = initial_form(context, spec, layout, preprocessing)
        setup = dataclasses.replace(setup, initial=initial)
    trainer = Trainer.resume(setup, resume) if resume else Trainer.start(setup)
    rates = Rates()
    pace = _train(context, trainer, setup, preprocessing, rates)
    trained = Trained(spec, dataset, layout, preprocessing, trainer, pace)
    output = publish(context, trained)
    record_speed(context, spec, layout, dataset, rates)
    return Completed(outputs=(output,), steps=trainer.step)


def _resolved(context: RunContext) -> tuple[ShardedDataset, Layout, TrainSpec]:
    wanted = TrainSpec.parse(context.submission.resolved_spec["train"], "train")
    dataset = open_dataset(context, wanted.dataset)
    layout = layout_of(wanted, dataset.manifest, lambda name, _: dataset.source(name))
    return dataset, layout, layout.resolve(wanted)


def _source(dataset: ShardedDataset, layout: Layout, spec: TrainSpec) -> ShardSource:
    return ShardSource(
        dataset,
        layout.names,
        norm_cut=spec.preprocess.norm_cut,
        seed=spec.order_seed,
        window_shards=spec.preprocess.window_shards,
    )


def _preprocessing(
    context: RunContext,
    dataset: ShardedDataset,
    source: ShardSource,
    layout: Layout,
    spec: TrainSpec,
    lane: Lane,
) -> SideBySide:
    sums = [read_sums(dataset, entry.name) for entry in layout.columns]
    known = from_sums(sums, source.rows, spec.preprocess)
    if known is not None:
        return known
    context.report.log(f"reading {source.rows} rows for their mean and scale")
    widths = [entry.d for entry in layout.columns]
    return fit_side_by_side(source, widths, spec.preprocess, lane)


def _setup(
    spec: TrainSpec, layout: Layout, source: ShardSource, preprocessing: SideBySide, lane: Lane
) -> TrainingSetup:
    return TrainingSetup(
        spec=spec,
        dims=Dimensions(layout.d_in, layout.d_out, spec.d_sae, layout.target_widths),
        source=source,
        preprocessing=preprocessing,
        device=lane.device,
        lane=lane,
    )


def _train(
    context: RunContext,
    trainer: Trainer,
    setup: TrainingSetup,
    preprocessing: SideBySide,
    rates: Rates,
) -> dict[str, float]:
    """Run to the end; the pace of this attempt, checkpoints included (0: nothing was left)."""
    first, pace = trainer.step, Pace(trainer.feed)
    sink = CompleteSink(context.ledger.checkpoint_sink(context.order.lease), preprocessing)
    with closing(trainer.run(sink, context.stop)) as events:
        for event in events:
            tell(context.report, event, trainer.steps)
            rates.observe(event)
            if isinstance(event, Stopped):
                raise JobStopped
    return pace.values((trainer.step - first) * setup.spec.batch_size)
