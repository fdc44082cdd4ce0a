"""Runs a train job that holds a sweep: one stream of rows, a model for each member."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from saeserve.core.architectures.contract import Dimensions
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.lane import lane_to
from saeserve.core.data.prepared import AsTheyAre, PreparedRows
from saeserve.core.data.preprocess import SideBySide
from saeserve.core.data.source import ActivationSource
from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.events import Stopped
from saeserve.core.training.feed import Pace
from saeserve.core.training.setup import TrainingSetup
from saeserve.core.training.sweep import Lost, OfMember, Sweep
from saeserve.jobs.record import Failure, Output
from saeserve.worker.report import MemberOf
from saeserve.worker.runners.base import Completed, JobStopped, RunContext
from saeserve.worker.runners.devices import device_of
from saeserve.worker.runners.train_checkpoints import CompleteSink
from saeserve.worker.runners.train_events import tell
from saeserve.worker.runners.train_export import Trained, publish
from saeserve.worker.runners.train_init import initial_form


@dataclass(frozen=True)
class Ground:
    """What a training job stands on; `spec` holds the sweep."""

    spec: TrainSpec
    dataset: ShardedDataset
    layout: Layout
    source: ActivationSource
    preprocessing: SideBySide

    def members(self) -> dict[str, TrainSpec]:
        """The resolved spec of every member by its model's name, in order."""
        return {each.model: each for each in self.layout.members(self.spec)}


def run_sweep(context: RunContext, ground: Ground, resume: Path | None) -> Completed:
    """Train all members side by side, then evaluate, export and publish those that are left."""
    members = ground.members()
    sweep = _sweep(context, ground, members, resume)
    pace = _train(context, ground, sweep)
    outputs = tuple(_outputs(context, ground, members, sweep, pace))
    return Completed(outputs=outputs, steps=sweep.step)


def _sweep(
    context: RunContext, ground: Ground, members: Mapping[str, TrainSpec], resume: Path | None
) -> Sweep:
    device = device_of(context.submission.resource_class)
    rows = PreparedRows(ground.source, ground.preprocessing, lane_to(device), ground.spec.tokens)
    layout, initial = ground.layout, None
    if resume is None:
        initial = initial_form(context, ground.spec, layout, ground.preprocessing)
    setups = {
        name: TrainingSetup(
            spec=spec,
            dims=Dimensions(layout.d_in, layout.d_out, spec.d_sae, layout.target_widths),
            source=rows,
            preprocessing=AsTheyAre(),
            device=device,
            initial=initial,
            lane=rows.waits.lane,
            data_sha256=ground.dataset.manifest.sha256,
        )
        for name, spec in members.items()
    }
    return Sweep.start(rows, setups) if resume is None else Sweep.resume(rows, setups, resume)


def _train(context: RunContext, ground: Ground, sweep: Sweep) -> dict[str, float]:
    """Run to the end; the pace of each member in this attempt, checkpoints included."""
    first, pace = sweep.step, Pace(sweep.rows)
    members = {name: MemberOf(name, n) for n, name in enumerate(ground.spec.publishes)}
    sink = CompleteSink(context.ledger.checkpoint_sink(context.order.lease), ground.preprocessing)
    with closing(sweep.run(sink, context.stop)) as events:
        for event in events:
            if isinstance(event, OfMember):
                tell(context.report, event.event, ground.spec.steps, members[event.member])
            else:
                tell(context.report, event, ground.spec.steps)
            if isinstance(event, Stopped):
                raise JobStopped
    return pace.values((sweep.step - first) * ground.spec.batch_size)


def _outputs(
    context: RunContext,
    ground: Ground,
    members: Mapping[str, TrainSpec],
    sweep: Sweep,
    pace: Mapping[str, float],
) -> Iterator[Output]:
    """What became of every member, in order; a member's memory is freed once it is published."""
    for number, (name, spec) in enumerate(members.items()):
        trainer = sweep.release(name)
        if trainer is None:
            yield Output(member=name, failure=_failure(sweep.lost[name]))
        else:
            kept = (ground.dataset, ground.layout, ground.preprocessing)
            member = MemberOf(name, number)
            yield publish(context, Trained(spec, *kept, trainer, pace, number, member))


def _failure(lost: Lost) -> Failure:
    return Failure(code=lost.code, message=lost.message, remedy=lost.remedy, step=lost.step)
