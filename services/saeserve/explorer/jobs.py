"""Pages of jobs: the list, a job with its curves, and the button that cancels it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from saeserve.client import Client
from saeserve.client.values import Job
from saeserve.explorer.answering import form_of, view
from saeserve.explorer.calling import CallersClient, KeptPictures
from saeserve.explorer.curves import Curve, curves_of, figures, plot_of
from saeserve.explorer.formats import reference, segment
from saeserve.explorer.security import check_form
from saeserve.explorer.text_results import (
    AnnotatedText,
    ShownEdit,
    SteeredText,
    annotated_of,
    edits_of,
    steered_of,
)

PAGE = 50
STATES = (
    *("BLOCKED", "QUEUED", "STARTING", "RUNNING", "PAUSING", "PAUSED", "CANCELLING"),
    *("SUCCEEDED", "FAILED", "CANCELLED"),
)
KINDS = (
    *("train", "harvest", "ingest", "collect", "evaluate", "generate", "annotate"),
    *("import_model", "export_model"),
)
FOLLOWED = ("generate", "annotate")
"""Kinds that take seconds."""
PageNumber = Annotated[int, Query(ge=1, le=10_000)]

router = APIRouter()


@dataclass(frozen=True)
class JobList:
    """One page of the jobs that match, newest first."""

    jobs: tuple[Job, ...]
    state: str
    kind: str
    page: int
    more: bool
    states: tuple[str, ...] = STATES
    kinds: tuple[str, ...] = KINDS


@dataclass(frozen=True)
class JobPage:
    """A job, and the figures of which there are curves."""

    job: Job
    figures: tuple[str, ...]
    inputs: tuple[tuple[str, str], ...]
    """Names of what it reads and makes."""
    model: str
    """name@version that it looked at or is to look at; "" for jobs that make models."""
    follows: bool
    """Whether somebody waits for it: its page then renews itself until it has ended."""
    feature: int | None
    """The feature whose strength texts show; null for that of the strongest on each token."""
    edits: tuple[ShownEdit, ...] = ()
    steered: tuple[SteeredText, ...] = ()
    annotated: tuple[AnnotatedText, ...] = ()


@dataclass(frozen=True)
class JobCurves:
    """All that a job reported while it ran, by figure and, of a sweep, member."""

    job: str
    unit: str
    curves: tuple[Curve, ...]


@view(router, "/jobs", "jobs.html", "Jobs, newest first")
def job_list(
    request: Request,  # noqa: ARG001 - of every view
    client: CallersClient,
    state: str = "",
    kind: str = "",
    page: PageNumber = 1,
) -> JobList:
    """Show the jobs in a state and of a kind, "" for all."""
    found = client.jobs.list(states=[state] if state else [], kinds=[kind] if kind else [])
    shown = tuple(islice(found, (page - 1) * PAGE, page * PAGE + 1))
    return JobList(shown[:PAGE], state, kind, page, len(shown) > PAGE)


@view(router, "/jobs/{job}/curves", "curves.html", "Curves of a job, as numbers")
def job_curves(request: Request, client: CallersClient, job: str) -> JobCurves:  # noqa: ARG001 - as above
    """Show what the job reported."""
    found = client.jobs.get(job)
    return JobCurves(found.id, found.progress.unit, curves_of(client.jobs.events(job)))


@router.get("/jobs/{job}/curves/{figure}.svg", include_in_schema=False)
def curve(
    request: Request,
    client: CallersClient,
    pictures: KeptPictures,
    job: str,
    figure: str,
    narrow: bool = False,
) -> Response:
    """Draw one figure of a job."""
    found = job_curves(request, client, job)
    return pictures.answer(request, plot_of(found.curves, figure, found.unit), narrow=narrow)


@view(router, "/jobs/{job}", "job.html", "A job: its state, warnings, outputs and spec")
def job_page(
    request: Request,  # noqa: ARG001 - as above
    client: CallersClient,
    job: str,
    feature: Annotated[int | None, Query(ge=0)] = None,
) -> JobPage:
    """Show a job."""
    found = client.jobs.get(job)
    return JobPage(
        found,
        _figures(client, found),
        _inputs(found),
        model=reference(str(found.resolved_spec.get(found.kind, {}).get("model", ""))),
        follows=found.kind in FOLLOWED and not found.done,
        feature=feature,
        edits=edits_of(found),
        steered=steered_of(found),
        annotated=annotated_of(found, feature),
    )


def _figures(client: Client, job: Job) -> tuple[str, ...]:
    """Names of what it reports. A rebuilt index knows no figures of jobs that have ended, and then
    their events are read."""
    members = [name for metrics in job.progress.members.values() for name in metrics]
    known = [*job.progress.metrics, *members]
    if job.done and not known:
        known = [curve.figure for curve in curves_of(client.jobs.events(job.id))]
    return figures(known)


def _inputs(job: Job) -> tuple[tuple[str, str], ...]:
    spec = job.resolved_spec.get(job.kind, {})
    named = ((name, spec.get(name)) for name in ("dataset", "model", "language_model", "format"))
    return tuple((name, value) for name, value in named if isinstance(value, str))


@router.post("/jobs/{job}/cancel", include_in_schema=False)
async def cancel(request: Request, client: CallersClient, job: str) -> Response:
    """Ask the job to stop, and show it."""
    check_form(request, await form_of(request))
    await asyncio.to_thread(client.jobs.cancel, job)
    return RedirectResponse(f"/jobs/{segment(job)}", 303)
