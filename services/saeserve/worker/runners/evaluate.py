"""Runs an evaluate job: figures of a published model on held-out rows of a data set."""

from __future__ import annotations

from typing import Any

from saeserve.core.evaluation.reconstruction import ReconstructionReport, evaluate_reconstruction
from saeserve.core.formats.model import Lineage
from saeserve.core.specs.closing import without_fvu
from saeserve.jobs.record import Output
from saeserve.worker.report import Scale, finite
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.runners.datasets import heldout
from saeserve.worker.runners.evaluate_subject import Subject, differences, open_subject


def run(context: RunContext) -> Completed:
    """Reconstruction, then what else the spec asks for."""
    subject = open_subject(context)
    for code, message in differences(subject):
        context.report.warning(0, code, message)
    context.report.log("reconstructing held-out rows")
    headline = _reconstruct(context, subject, subject.norm_cut)
    for code, message in without_fvu(headline.fvu, "held-out"):
        context.report.warning(0, code, message)
    metrics = _trained_figures(subject.model.config.lineage) | headline.metrics()
    metrics |= _with_massive(context, subject, headline)
    if subject.spec.loss_recovered is not None:
        from saeserve.worker.runners.evaluate_splice import recovered

        metrics |= recovered(context, subject)
    features: list[dict[str, Any]] = []
    if subject.spec.context_features:
        from saeserve.worker.runners.evaluate_contexts import feature_contexts

        features = feature_contexts(context, subject)
    return _completed(context, headline, finite(metrics), features)


def _reconstruct(context: RunContext, subject: Subject, norm_cut: float) -> ReconstructionReport:
    rows = heldout(context, subject.dataset, subject.names, norm_cut, subject.spec.max_rows)
    return evaluate_reconstruction(subject.model, (block.x_BD for block in rows))


def _trained_figures(lineage: Lineage) -> dict[str, float]:
    known = lineage.metrics
    return {"dead_fraction": known["dead_fraction"]} if "dead_fraction" in known else {}


def _with_massive(
    context: RunContext, subject: Subject, headline: ReconstructionReport
) -> dict[str, float]:
    """The figures next to the headline, with the rows of massive norm among the rest."""
    every = headline
    if subject.norm_cut and any(source.massive_rows for source in subject.sources):
        every = _reconstruct(context, subject, 0.0)
    return {"fvu_with_massive": every.fvu, "l0_with_massive": every.l0}


def _completed(
    context: RunContext,
    headline: ReconstructionReport,
    metrics: dict[str, float],
    features: list[dict[str, Any]],
) -> Completed:
    context.report.metrics(headline.rows, metrics, Scale("rows", headline.rows))
    density = [
        {"log10_lower": b.log10_lower, "log10_upper": b.log10_upper, "latents": b.latents}
        for b in headline.density
    ]
    evaluation = {"metrics": metrics, "density": density, "features": features}
    output = Output(evaluation=evaluation, metrics=metrics)
    return Completed(outputs=(output,), steps=headline.rows)
