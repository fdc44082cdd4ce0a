"""Curves of a job: the figures that its events report, those of superseded attempts left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from saeserve.client.events import AttemptStarted, JobEvent, MetricsReported
from saeserve.explorer.plots import Line, Plot

MOST_DRAWN = 400
"""Points of a line that are drawn: more are not to be seen."""
FIRST = ("loss", "fvu", "l0", "dead")
"""Figures that a job's page shows before all others, in this order."""
_LABELS = {
    "loss": "loss",
    "fvu": "FVU, training batches",
    "l0": "L0, latents a row",
    "dead": "dead latents",
    "lr": "learning rate",
}
_SPREAD = 30.0
"""A figure whose values differ by this factor is drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """One figure over steps; `member` is the model of a sweep's member, or ""."""

    figure: str
    member: str
    steps: tuple[int, ...]
    values: tuple[float, ...]


def curves_of(events: Iterable[JobEvent]) -> tuple[Curve, ...]:
    """Every figure that events report. A new attempt repeats the steps after its checkpoint, so
    those of earlier attempts are dropped there."""
    points: dict[tuple[str, str], dict[int, float]] = {}
    for event in events:
        match event.payload:
            case AttemptStarted(resume_step=step):
                for known in points.values():
                    for late in [at for at in known if at > step]:
                        del known[late]
            case MetricsReported(metrics=metrics):
                for name, value in metrics.items():
                    points.setdefault((name, event.member), {})[event.step] = float(value)
            case _:
                pass
    return tuple(
        Curve(figure, member, tuple(sorted(known)), tuple(known[at] for at in sorted(known)))
        for (figure, member), known in sorted(points.items())
    )


def figures(names: Iterable[str]) -> tuple[str, ...]:
    """Names of figures, those that matter most first."""
    found = set(names)
    return (*(name for name in FIRST if name in found), *sorted(found - set(FIRST)))


def plot_of(curves: Sequence[Curve], figure: str, unit: str) -> Plot:
    """The plot of one figure, a line for each member of a sweep."""
    wanted = [curve for curve in curves if curve.figure == figure]
    values = [value for curve in wanted for value in curve.values]
    log = bool(values) and min(values) > 0 and max(values) > _SPREAD * min(values)
    return Plot(
        title=f"{_LABELS.get(figure, figure)} (n = {len(values):,} reports)",
        x_label=unit or "step",
        y_label=_LABELS.get(figure, figure),
        lines=tuple(Line(curve.member, *_thinned(curve)) for curve in wanted),
        y_log=log,
    )


def _thinned(curve: Curve) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """At most MOST_DRAWN points, the last among them."""
    every = -(-len(curve.steps) // MOST_DRAWN) or 1
    kept = sorted({*range(0, len(curve.steps), every), *range(len(curve.steps))[-1:]})
    return tuple(float(curve.steps[at]) for at in kept), tuple(curve.values[at] for at in kept)
