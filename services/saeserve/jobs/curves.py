"""The curves of a training job, from the events of its attempts.

Events are the single source: a report is written before the checkpoint of its step is committed, so
whatever a later attempt resumes from, the reports up to that step are there.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from saeserve.jobs.payloads import AttemptStarted, MetricsReported
from saeserve.jobs.record import Event

FIXED = ("model", "step", "tokens", "time", "attempt")
"""Columns of `metrics.csv` that every row fills; docs/CURVES.md has all and their units."""
_FIRST = ("loss", "fvu", "l0", "dead", "grad_norm", "lr")


@dataclass(frozen=True)
class Point:
    """A report: averages over the steps since the one before, of one model of the job."""

    model: str
    step: int
    tokens: int
    time: float
    """Seconds since the epoch."""
    attempt: int
    values: Mapping[str, float]


def curves(events: Iterable[Event], model: str) -> list[Point]:
    """Every report once, by model and step. `model` names what a job without a sweep trains.

    `events` are those that the job's processes wrote, by attempt. Where an attempt resumed from a
    step, what earlier ones reported beyond it is left out: those steps were taken again.
    """
    kept: dict[tuple[int, str, int], Point] = {}
    for event in events:
        payload = event.payload
        if isinstance(payload, AttemptStarted):
            kept = {key: point for key, point in kept.items() if key[-1] <= payload.resume_step}
        elif isinstance(payload, MetricsReported):
            key = (payload.member_number, payload.member, event.step)
            kept[key] = _point(event, payload, payload.member or model)
    return [kept[key] for key in sorted(kept)]


def _point(event: Event, report: MetricsReported, model: str) -> Point:
    values = {name: value for name, value in report.metrics.items() if name != "tokens"}
    tokens = int(report.metrics.get("tokens", 0))
    return Point(model, event.step, tokens, event.time, event.epoch, values)


def by_model(points: Iterable[Point]) -> dict[str, list[Point]]:
    """The points of each model, in their order."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.model, []).append(point)
    return found


def to_csv(points: Sequence[Point]) -> bytes:
    """`metrics.csv`: UTF-8, a row for each point, numbers that read back exactly.

    A field is empty where a model did not report the figure, or it was not finite.
    """
    names = _names(points)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow((*FIXED, *names))
    writer.writerows(_row(point, names) for point in points)
    return text.getvalue().encode()


def _row(point: Point, names: Sequence[str]) -> Iterator[object]:
    yield from (point.model, point.step, point.tokens, point.time, point.attempt)
    yield from (point.values.get(name, "") for name in names)


def _names(points: Iterable[Point]) -> list[str]:
    """Names of all figures, those that are looked at first in front."""
    found = {name for point in points for name in point.values}
    return [*(name for name in _FIRST if name in found), *sorted(found - {*_FIRST})]
