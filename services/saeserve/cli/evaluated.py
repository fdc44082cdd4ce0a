"""Figures of evaluations with their intervals, on the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from saeserve.cli.figures import count, figure
from saeserve.cli.tables import print_table
from saeserve.client import Client
from saeserve.client.evaluations import EvaluationMetric
from saeserve.client.values import JobOutput

_LOOKED_AT = 200
"""Newest evaluations among which that of a model is looked for."""


def print_evaluation(output: JobOutput, title: str = "") -> None:
    """A table of the figures; nothing for reports of older releases, which have no intervals."""
    if output.results:
        print_table(
            ("figure", "value", "95 %", "unit", "n"),
            (_row(result) for result in output.results),
            title,
        )


def evaluation_of(client: Client, resource: str) -> tuple[str, JobOutput] | None:
    """The newest evaluation of a version and its job; None where there is none to be found."""
    jobs = client.jobs.list(kinds=["evaluate"], states=["SUCCEEDED"])
    for listed in islice(jobs, _LOOKED_AT):
        if _mentions(listed.outputs, resource):
            outputs = client.jobs.get(listed.id).outputs
            return listed.id, next(each for each in outputs if _is_of(each, resource))
    return None


def _mentions(outputs: Iterable[JobOutput], resource: str) -> bool:
    return any(_is_of(output, resource) for output in outputs)


def _is_of(output: JobOutput, resource: str) -> bool:
    return output.evaluation is not None and output.evaluation.get("model") == resource


def _row(result: EvaluationMetric) -> tuple[str, str, str, str, str]:
    interval = ""
    if result.low is not None and result.high is not None:
        interval = f"{figure(result.low)} … {figure(result.high)}"
    name = f"{result.name}, {result.stratum}" if result.stratum else result.name
    return name, figure(result.value), interval, result.unit, f"{count(result.n)} {result.counted}"
