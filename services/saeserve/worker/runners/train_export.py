"""From a trained SAE to a published version: closing evaluation, fold, export."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from torch import Tensor

from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.preprocess import SideBySide
from saeserve.core.evaluation.reconstruction import evaluate_reconstruction
from saeserve.core.export.fold import Side, fold_between, with_statistics
from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.specs.layout import Layout
from saeserve.core.specs.manifest import SourceEntry
from saeserve.core.specs.model import Lineage
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.trainer import Trainer
from saeserve.jobs.record import Output
from saeserve.worker.report import finite
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.datasets import heldout
from saeserve.worker.runners.scratch import scratch_folder
from saeserve.worker.runners.train_init import sides


@dataclass(frozen=True)
class Trained:
    """A finished training run and what it stood on."""

    spec: TrainSpec
    dataset: ShardedDataset
    layout: Layout
    preprocessing: SideBySide
    trainer: Trainer
    pace: Mapping[str, float]
    number: int = 0
    """Which of the job's outputs it is."""


def publish(context: RunContext, trained: Trained) -> Output:
    """Evaluate, export and publish; the same job publishes the same version however often."""
    context.check_stop()
    model = _evaluated(context, trained, _folded(context, trained))
    folder = scratch_folder(context)
    save_model(model, folder)
    context.check_fence()
    resource = context.models.publish(
        trained.spec.model, context.submission.id, trained.number, folder
    )
    context.report.log(f"published {resource}")
    metrics = {**model.config.lineage.metrics, **_pace(trained)}
    return Output(model=resource, metrics=metrics)


def _folded(context: RunContext, trained: Trained) -> InferenceModel:
    layout = trained.layout
    source, target = sides(layout, trained.preprocessing)
    return fold_between(
        trained.trainer.form(),
        Side(_names(layout.inputs), source),
        Side(_names(layout.targets), target),
        architecture=trained.spec.architecture.name,
        lineage=_lineage(context, trained),
    )


def _names(sources: Sequence[SourceEntry]) -> tuple[str, ...]:
    return tuple(source.name for source in sources)


def _lineage(context: RunContext, trained: Trained) -> Lineage:
    manifest = trained.dataset.manifest
    return Lineage(
        spec=trained.trainer.effective_spec.to_json(),
        dataset=manifest.name,
        dataset_sha256=manifest.sha256,
        source=", ".join(_names(trained.layout.inputs)),
        job=context.submission.id,
        code_version=version("saeserve"),
        metrics=finite(
            {"dead_fraction": trained.trainer.dead_fraction(), **_sparsity(context, trained)}
        ),
    )


def _sparsity(context: RunContext, trained: Trained) -> dict[str, float]:
    """How target_l0 was met: on held-out rows, else on those that would have come next; {} without
    a target."""
    heldout_rows = None
    if _evaluates(trained):
        heldout_rows = map(trained.preprocessing.apply, _heldout(context, trained))
    found = trained.trainer.sparsity(heldout_rows)
    return found.metrics() if found is not None else {}


def _evaluates(trained: Trained) -> bool:
    return trained.spec.eval_rows > 0 and trained.dataset.manifest.heldout_rows > 0


def _evaluated(context: RunContext, trained: Trained, model: InferenceModel) -> InferenceModel:
    if not _evaluates(trained):
        return model
    context.report.log("evaluating on held-out rows")
    report = evaluate_reconstruction(model, _heldout(context, trained))
    return with_statistics(model, report.frequency_F, report.maximum_F, report.metrics())


def _heldout(context: RunContext, trained: Trained) -> Iterator[Tensor]:
    spec, names = trained.spec, trained.layout.names
    rows = heldout(context, trained.dataset, names, spec.preprocess.norm_cut, spec.eval_rows)
    return (block.x_BD for block in rows)


def _pace(trained: Trained) -> dict[str, float]:
    # Not part of the model: two runs of one spec shall publish the same bytes.
    return finite({f"train_{name}": value for name, value in trained.pace.items()})
