"""From a trained SAE to a published version: closing evaluation, fold, export."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from torch import Tensor

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.dataset import ShardedDataset
from saeserve.core.data.preprocess import SideBySide
from saeserve.core.evaluation.reconstruction import evaluate_reconstruction
from saeserve.core.export.annotate import with_lineage, with_statistics
from saeserve.core.export.fold import Side, fold_between
from saeserve.core.export.format import save_model
from saeserve.core.export.inference_model import InferenceModel
from saeserve.core.formats.manifest import SourceEntry
from saeserve.core.formats.model import Lineage
from saeserve.core.formats.train_sources import Layout
from saeserve.core.planning.before_run import warnings_before
from saeserve.core.planning.sizes import training_data
from saeserve.core.specs.closing import closing_warnings, is_judged
from saeserve.core.specs.run_warning import RunWarning
from saeserve.core.specs.training import TrainSpec
from saeserve.core.training.calibrating import judged_half, whole
from saeserve.core.training.judging import Judged
from saeserve.core.training.trainer import Trainer
from saeserve.jobs.record import JobWarning, Output
from saeserve.worker.report import MemberOf, finite
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.cards import write_card
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
    member: MemberOf | None = None
    """Member of the sweep that the model is of; None without a sweep."""
    rows: Callable[[Tensor], Tensor] = whole
    """Which rows of each held-out block the closing figures come from."""


def publish(context: RunContext, trained: Trained) -> Output:
    """Evaluate, export and publish; the same job publishes the same version however often."""
    context.check_stop()
    shifted = _shifted(context, trained)
    if shifted is not None:
        trained = dataclasses.replace(trained, rows=judged_half)
    form = shifted or trained.trainer.form()
    model, warnings = _judged(context, trained, form, _folded(context, trained, form))
    with scratch_folder(context) as folder:
        save_model(model, folder)
        write_card(context, folder, trained.spec.model, model.config)
        context.check_fence()
        resource = context.models.publish(
            trained.spec.model, context.submission.id, trained.number, folder
        )
    context.report.log(f"published {resource}")
    metrics = {**model.config.lineage.metrics, **_pace(trained)}
    return Output(model=resource, metrics=metrics, warnings=_kept(trained, warnings))


def _shifted(context: RunContext, trained: Trained) -> EvaluationForm | None:
    """With the L0 that was asked for on held-out rows, where there are any."""
    if not _evaluates(trained):
        return None
    return trained.trainer.calibrated(_prepared_heldout(context, trained))


def _judged(
    context: RunContext, trained: Trained, form: EvaluationForm, model: InferenceModel
) -> tuple[InferenceModel, tuple[RunWarning, ...]]:
    """The model with its closing figures and the warnings that follow from them, which are events
    too; judged on held-out rows, without any on the training rows that would have come next."""
    spec, step = trained.spec, trained.trainer.step
    judged = _beside_training(context, trained, form)
    model = _evaluated(context, trained, model)
    figures = model.config.lineage.metrics
    if judged is not None:
        figures = {"fvu": judged.fvu, "l0": judged.l0, **figures}
    rows = "held-out" if _evaluates(trained) else "training"
    found = closing_warnings(spec, figures.get("fvu", math.nan), figures["l0"], rows)
    if spec.asked_l0 is not None:
        model = with_lineage(model, metrics={"l0_miss": figures["l0"] / spec.asked_l0 - 1})
    if judged is not None:
        found += judged.warnings()
        model = with_lineage(model, metrics=finite(judged.metrics()))
    for warning in found:
        context.report.warning(step, warning.code, warning.message, trained.member)
    data = training_data(trained.layout, trained.dataset.manifest)
    found = (*warnings_before(spec, data), *found)
    return with_lineage(model, warnings=found), found


def _beside_training(context: RunContext, trained: Trained, form: EvaluationForm) -> Judged | None:
    if not is_judged(trained.spec, trained.dataset.manifest.heldout_rows):
        return None
    if not _evaluates(trained):
        return trained.trainer.judged(form)
    return trained.trainer.judged(form, _prepared_heldout(context, trained))


def _kept(trained: Trained, warnings: Iterable[RunWarning]) -> tuple[JobWarning, ...]:
    member = trained.member.name if trained.member is not None else ""
    return tuple(JobWarning(code=w.code, message=w.message, member=member) for w in warnings)


def _folded(context: RunContext, trained: Trained, form: EvaluationForm) -> InferenceModel:
    layout = trained.layout
    source, target = sides(layout, trained.preprocessing)
    return fold_between(
        form,
        Side(_names(layout.inputs), source, _norm_bounds(trained.spec, layout.inputs)),
        Side(_names(layout.targets), target, _norm_bounds(trained.spec, layout.targets)),
        architecture=trained.spec.architecture.name,
        lineage=_lineage(context, trained),
    )


def _norm_bounds(spec: TrainSpec, sources: Sequence[SourceEntry]) -> tuple[float | None, ...]:
    """In the units of raw rows; 0 cuts none."""
    return tuple(spec.preprocess.norm_cut * source.median_norm or None for source in sources)


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
        metrics=finite({"dead_fraction": trained.trainer.dead_fraction()}),
    )


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
    return (trained.rows(block.x_BD) for block in rows)


def _prepared_heldout(context: RunContext, trained: Trained) -> Iterator[Tensor]:
    return map(trained.preprocessing.apply, _heldout(context, trained))


def _pace(trained: Trained) -> dict[str, float]:
    # Not part of the model: two runs of one spec publish the same bytes.
    return finite({f"train_{name}": value for name, value in trained.pace.items()})
