"""What a train job continues from: a published model, unfolded for the job's data."""

from __future__ import annotations

from saeserve.core.architectures.contract import EvaluationForm
from saeserve.core.data.preprocess import SideBySide
from saeserve.core.export.format import load_model
from saeserve.core.export.unfold import unfold
from saeserve.core.formats.continuation import check_continuation
from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.training import TrainSpec
from saeserve.registry.verifying import verified
from saeserve.worker.runners.base import RunContext


def initial_form(
    context: RunContext, spec: TrainSpec, layout: Layout, preprocessing: SideBySide
) -> EvaluationForm | None:
    """The form of `spec.init_from`; None where the run starts from initial values.

    Raises NotFound, FormatError, and SpecError for a model that the spec cannot continue.
    """
    if spec.init_from is None:
        return None
    version = context.models.resolve(spec.init_from, "train.init_from")
    for member in spec.members:
        check_continuation(member, version.config, layout)
    context.report.log(f"continuing from {version.resource}")
    source, target = sides(layout, preprocessing)
    return unfold(load_model(verified(version.folder)), source, target)


def sides(layout: Layout, preprocessing: SideBySide) -> tuple[SideBySide, SideBySide]:
    """The preprocessing of inputs and of targets, whose columns are the last: all of them, unless
    they follow the inputs'."""
    parts = preprocessing.parts
    return SideBySide(parts[: len(layout.inputs)]), SideBySide(parts[-len(layout.targets) :])
