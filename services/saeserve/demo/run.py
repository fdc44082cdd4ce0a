"""The jobs of the demo, submitted over gRPC and followed to their end."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from saeserve.cli.figures import metrics_text
from saeserve.cli.output import console
from saeserve.client import Client
from saeserve.client.values import Job
from saeserve.demo.presets import Spec

POLL_SECONDS = 0.4
SHOWN = ("loss", "fvu", "l0", "dead")


class DemoFailedError(Exception):
    """A job of the demo did not succeed."""


def submit(client: Client, spec: Spec, waits_for: Sequence[str] = ()) -> Job:
    """Submit under an id made of the spec itself, so that a second run finds the first one's
    job; one that failed or was cancelled is submitted again."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:24]
    attempt = 1
    while True:
        job = client.jobs.submit(
            spec,
            request_id=f"demo-{digest}-{attempt}",
            waits_for=waits_for,
            labels={"demo": "yes"},
            owner="demo",
        )
        if job.state not in ("FAILED", "CANCELLED"):
            return job
        attempt += 1


def follow_all(client: Client, jobs: Mapping[str, Job]) -> dict[str, Job]:
    """Show a bar for each titled job until all have ended. Raises DemoFailedError."""
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description:<26}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[figures]}"),
        console=console,
        transient=False,
    ) as bars:
        return {title: _follow(client, title, job.id, bars) for title, job in jobs.items()}


def _follow(client: Client, title: str, job_id: str, bars: Progress) -> Job:
    bar = bars.add_task(title, total=None, figures="waits")
    while True:
        job = client.jobs.get(job_id)
        figures = {
            name: job.progress.metrics[name] for name in SHOWN if name in job.progress.metrics
        }
        bars.update(
            bar,
            total=job.progress.total_steps or None,
            completed=job.progress.step,
            figures=job.state.lower() + " " + metrics_text(figures),
        )
        if job.done:
            break
        time.sleep(POLL_SECONDS)
    if job.state != "SUCCEEDED":
        raise DemoFailedError(_why(job))
    bars.update(bar, total=1, completed=1)
    bars.stop_task(bar)
    return job


def _why(job: Job) -> str:
    if job.error is None:
        return f"job {job.id} ended {job.state}"
    return f"job {job.id} failed: {job.error.message} — {job.error.remedy}"
