"""Evaluation reports off the wire."""

from __future__ import annotations

from typing import Any

from saeserve.v1 import job_pb2


def evaluation_value(report: job_pb2.EvaluationReport) -> dict[str, Any]:
    """An evaluation as plain data, every number a number."""
    return {
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
