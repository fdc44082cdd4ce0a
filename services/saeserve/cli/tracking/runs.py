"""What a tracker gets of a job: a run for each model, with its spec and its points."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from saeserve.cli.refusals import not_installed
from saeserve.client import Client
from saeserve.client.curves import CurvePoint
from saeserve.client.errors import UnavailableError


@dataclass(frozen=True)
class Run:
    """One model's curves. `id` depends on job and model alone: another export finds the run."""

    id: str
    name: str
    config: Mapping[str, Any]
    points: Sequence[CurvePoint]


@dataclass(frozen=True)
class Exported:
    """A run in a tracker, where it is, and how many points were new to it."""

    run: str
    place: str
    points: int


class Tracker(Protocol):
    """Where runs go."""

    def export(self, run: Run, project: str) -> Exported:
        """Add the points that the tracker does not have. Raises UnavailableError."""
        ...


def runs_of(client: Client, job: str) -> list[Run]:
    """The runs of a training job, of a sweep one for each member.

    Raises NotFoundError where it has no curves.
    """
    found, points = client.jobs.get(job), client.jobs.metrics(job)
    spec: Mapping[str, Any] = found.resolved_spec.get(found.kind, {})
    models = dict.fromkeys(point.model for point in points)
    return [
        Run(
            id=job if len(models) == 1 else f"{job}.{model}",
            name=model,
            config={**spec, "model": model, "saeserve_job": job},
            points=[point for point in points if point.model == model],
        )
        for model in models
    ]


def values_of(point: CurvePoint) -> dict[str, float]:
    """The figures of a point, with the tokens up to it, and these last."""
    return {**point.values, "tokens": float(point.tokens)}


def library(name: str, extra: str) -> ModuleType:
    """A tracker's library. Raises PreconditionError, which names the extra, without it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise not_installed(error, extra, field="to") from error


def failed(tracker: str, error: Exception) -> UnavailableError:
    """The error for whatever a tracker's library raises."""
    return UnavailableError(
        f"{tracker} does not take the curves: {' '.join(str(error).split())[:300]}",
        reason="TRACKER_FAILED",
        field="to",
        remedy="look at its own settings and login, then repeat the command: points are not "
        "repeated",
    )
