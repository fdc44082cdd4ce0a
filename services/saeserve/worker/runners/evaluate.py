"""Runs an evaluate job: figures of published models on held-out rows of a data set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from saeserve.core.specs.closing import without_fvu
from saeserve.jobs.record import Output
from saeserve.worker.report import Scale, finite
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.runners.evaluate_memory import Memory
from saeserve.worker.runners.evaluate_rows import RowFigures, SplicedFigures, row_figures
from saeserve.worker.runners.evaluate_subject import Subject, differences, open_subjects

Report = Mapping[str, Any]
"""The API's EvaluationReport, as plain data."""


def run(context: RunContext) -> Completed:
    """Reconstruction of each model, then what else the spec asks for."""
    subjects = open_subjects(context)
    spec, manifest = subjects[0].spec, subjects[0].dataset.manifest
    spliced = spec.loss_recovered is not None
    memory = Memory(context, manifest, spliced or bool(spec.context_features))
    for subject in subjects:
        for code, message in differences(subject):
            context.report.warning(0, code, _about(message, subject, subjects))
    reports = _remembered(context, memory, subjects)
    fresh = [subject for subject in subjects if subject.resource not in reports]
    for subject, report in zip(fresh, _evaluated(context, memory, fresh), strict=True):
        reports[subject.resource] = report
        memory.keep_report(subject, report)
    return _completed(context, subjects, [reports[subject.resource] for subject in subjects])


def _remembered(
    context: RunContext, memory: Memory, subjects: Sequence[Subject]
) -> dict[str, Report]:
    found = {subject.resource: memory.report(subject) for subject in subjects}
    for resource, report in found.items():
        if report is not None:
            context.report.log(
                f"{resource} was evaluated before with these settings; its figures are taken over"
            )
    return {resource: report for resource, report in found.items() if report is not None}


def _evaluated(context: RunContext, memory: Memory, subjects: Sequence[Subject]) -> list[Report]:
    if not subjects:
        return []
    rows = [row_figures(context, subject) for subject in subjects]
    spliced = [SplicedFigures()] * len(subjects)
    if subjects[0].spec.loss_recovered is not None:
        from saeserve.worker.runners.evaluate_splice import recovered

        spliced = recovered(context, memory, subjects, rows)
    return [
        _report(subject, own, costs, _features(context, subject))
        for subject, own, costs in zip(subjects, rows, spliced, strict=True)
    ]


def _features(context: RunContext, subject: Subject) -> list[dict[str, Any]]:
    if not subject.spec.context_features:
        return []
    from saeserve.worker.runners.evaluate_contexts import feature_contexts

    return feature_contexts(context, subject)


def _report(
    subject: Subject, rows: RowFigures, spliced: SplicedFigures, features: list[dict[str, Any]]
) -> Report:
    return {
        "model": subject.resource,
        "dataset": subject.spec.dataset,
        "metrics": finite(rows.figures | spliced.figures),
        "density": [
            {"log10_lower": b.log10_lower, "log10_upper": b.log10_upper, "latents": b.latents}
            for b in rows.headline.density
        ],
        "features": features,
        "results": [metric.to_json() for metric in (*rows.metrics, *spliced.metrics)],
    }


def _completed(
    context: RunContext, subjects: Sequence[Subject], reports: Sequence[Report]
) -> Completed:
    steps = 0
    for subject, report in zip(subjects, reports, strict=True):
        metrics: Mapping[str, float] = report["metrics"]
        for code, message in without_fvu(metrics.get("fvu", math.nan), "held-out"):
            context.report.warning(0, code, _about(message, subject, subjects))
        steps += int(metrics["heldout_rows"])
        context.report.metrics(steps, metrics, Scale("rows", steps))
    outputs = [
        Output(evaluation=dict(report), metrics=dict(report["metrics"])) for report in reports
    ]
    return Completed(outputs=tuple(outputs), steps=steps)


def _about(message: str, subject: Subject, subjects: Sequence[Subject]) -> str:
    """The message, with the model's name where there are several."""
    return message if len(subjects) == 1 else f"{subject.resource}: {message}"
