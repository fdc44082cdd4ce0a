"""The first page of a report: the jobs and models that it is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Request

from saeserve.client import Client
from saeserve.client.errors import InvalidArgumentError
from saeserve.client.model_values import Model
from saeserve.client.values import Job
from saeserve.explorer.answering import view
from saeserve.explorer.formats import reference
from saeserve.explorer.models import Evaluation, evaluation_of

ADDRESS = "/report"


@dataclass(frozen=True)
class Reported:
    """A model, and its newest evaluation."""

    model: Model
    evaluation: Evaluation | None


@dataclass(frozen=True)
class Report:
    """What a report is about, when it was made and by which release."""

    jobs: tuple[Job, ...]
    models: tuple[Reported, ...]
    made: datetime
    release: str


def report_of(client: Client, names: Sequence[str]) -> Report:
    """Jobs by their id and models by reference; of a job also the models that it made or looked
    at. Raises NotFoundError for a job or model that there is not."""
    jobs, models = dict[str, Job](), dict[str, Model]()
    for name in names:
        job = _job(client, name)
        if job is not None:
            jobs[job.id] = job
        for named in [name] if job is None else _models(job):
            model = client.models.get(named)
            models[model.resource] = model
    reported = tuple(Reported(each, evaluation_of(client, each)) for each in models.values())
    return Report(tuple(jobs.values()), reported, datetime.now(UTC), version("saeserve"))


def router_of(report: Report) -> APIRouter:
    """The route of the page."""
    router = APIRouter()

    @view(router, ADDRESS, "report.html", "What a report is about")
    def first(request: Request) -> Report:  # noqa: ARG001 - of every view
        return report

    return router


def _job(client: Client, name: str) -> Job | None:
    """The job of that id; None for a text that has not the form of an id."""
    try:
        return client.jobs.get(name)
    except InvalidArgumentError:
        return None


def _models(job: Job) -> Iterator[str]:
    made = [reference(output.model) for output in job.outputs if output.model]
    spec: Mapping[str, Any] = job.resolved_spec.get(job.kind, {})
    if made:
        yield from made
    elif job.done and job.kind != "train" and isinstance(spec.get("model"), str):
        yield reference(spec["model"])
