"""Tier 0 of an evaluation: what a model makes of held-out rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from saeserve.core.evaluation.metric import Metric
from saeserve.core.evaluation.reconstruction import ReconstructionReport, evaluate_reconstruction
from saeserve.core.evaluation.row_metrics import RowMetrics
from saeserve.core.formats.model import Lineage
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.datasets import heldout
from saeserve.worker.runners.evaluate_subject import Subject, mean_of


@dataclass(frozen=True)
class RowFigures:
    """Figures of one model's rows."""

    headline: ReconstructionReport
    figures: dict[str, float]
    metrics: list[Metric]
    mean_O: Tensor
    """float64 [d_out]: mean of the headline's rows."""


@dataclass(frozen=True)
class SplicedFigures:
    """Figures of one model's splices; empty where none were asked for."""

    figures: dict[str, float] = field(default_factory=dict[str, float])
    metrics: list[Metric] = field(default_factory=list[Metric])


def row_figures(context: RunContext, subject: Subject) -> RowFigures:
    """Reconstruct the held-out rows, without those of massive norm and then with them."""
    context.report.log(f"reconstructing held-out rows with {subject.resource}")
    mean_O = mean_of(context, subject)
    measured = RowMetrics(subject.model, mean_O, subject.spec.seed)
    blocks = heldout(
        context, subject.dataset, subject.names, subject.norm_cut, subject.spec.max_rows
    )
    headline = evaluate_reconstruction(subject.model, measured.passing(blocks), measured.watch)
    figures = _trained_figures(subject.model.config.lineage) | headline.metrics()
    figures |= _with_massive(context, subject, headline)
    return RowFigures(headline, figures, measured.metrics(), mean_O)


def _trained_figures(lineage: Lineage) -> dict[str, float]:
    known = lineage.metrics
    return {"dead_fraction": known["dead_fraction"]} if "dead_fraction" in known else {}


def _with_massive(
    context: RunContext, subject: Subject, headline: ReconstructionReport
) -> dict[str, float]:
    """The figures next to the headline, with the rows of massive norm among the rest."""
    every = headline
    if subject.norm_cut and any(source.massive_rows for source in subject.sources):
        rows = heldout(context, subject.dataset, subject.names, 0.0, subject.spec.max_rows)
        every = evaluate_reconstruction(subject.model, (block.x_BD for block in rows))
    return {"fvu_with_massive": every.fvu, "l0_with_massive": every.l0}
