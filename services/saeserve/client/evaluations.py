"""Evaluation reports off the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from saeserve.v1 import job_pb2


@dataclass(frozen=True)
class EvaluationMetric:
    """One figure of an evaluation; `low` and `high` bound it with 95 % confidence."""

    name: str
    definition: str
    """What was computed, with a version, such as "kl_clean_spliced/1"."""
    value: float
    unit: str
    n: int
    """How many rows, predicted tokens or latents it is of."""
    counted: str
    """What there are `n` of."""
    low: float | None = None
    high: float | None = None
    stratum: str = ""
    """The part of the tokens that it is of, such as "positions 1-7"; empty for all."""
    seed: int = 0
    """Seed of the resamples."""


def evaluation_metrics(report: job_pb2.EvaluationReport) -> tuple[EvaluationMetric, ...]:
    """Every figure of a report; none in those of older releases."""
    return tuple(_metric(result) for result in report.results)


def evaluation_value(report: job_pb2.EvaluationReport) -> dict[str, Any]:
    """An evaluation as plain data, every number a number."""
    return {
        "model": report.model,
        "dataset": report.dataset,
        "metrics": dict(report.metrics),
        "density": [
            {"lower": bin.log10_lower, "upper": bin.log10_upper, "latents": bin.latents}
            for bin in report.density
        ],
        "features": [
            {
                "feature": feature.feature,
                "frequency": feature.frequency,
                "contexts": [
                    {
                        "before": context.before,
                        "token": context.token,
                        "after": context.after,
                        "activation": context.activation,
                        "document": context.document,
                    }
                    for context in feature.contexts
                ],
            }
            for feature in report.features
        ],
    }


def _metric(result: job_pb2.EvaluationMetric) -> EvaluationMetric:
    return EvaluationMetric(
        name=result.name,
        definition=result.definition,
        value=result.value,
        unit=result.unit,
        n=result.n,
        counted=result.counted,
        low=result.low if result.HasField("low") else None,
        high=result.high if result.HasField("high") else None,
        stratum=result.stratum,
        seed=result.seed,
    )
