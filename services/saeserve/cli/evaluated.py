"""Figures of evaluations with their intervals, on the terminal."""

from __future__ import annotations

from saeserve.cli.figures import count, figure
from saeserve.cli.tables import print_table
from saeserve.client.evaluations import EvaluationMetric
from saeserve.client.values import JobOutput


def print_evaluation(output: JobOutput, title: str = "") -> None:
    """A table of the figures; nothing for reports of older releases, which have no intervals."""
    if output.results:
        print_table(
            ("figure", "value", "95 %", "unit", "n"),
            (_row(result) for result in output.results),
            title,
        )


def _row(result: EvaluationMetric) -> tuple[str, str, str, str, str]:
    interval = ""
    if result.low is not None and result.high is not None:
        interval = f"{figure(result.low)} … {figure(result.high)}"
    name = f"{result.name}, {result.stratum}" if result.stratum else result.name
    return name, figure(result.value), interval, result.unit, f"{count(result.n)} {result.counted}"
