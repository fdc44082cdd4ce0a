"""`saeserve jobs ls|show|watch|cancel|rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from saeserve.cli.describing import described, progress
from saeserve.cli.figures import ago
from saeserve.cli.output import Json, connect, console, print_json, told
from saeserve.cli.sending import Label, labels
from saeserve.cli.showing import show_job, state_text
from saeserve.cli.tables import print_table
from saeserve.cli.watching import follow

app = typer.Typer(no_args_is_help=True, help="Look at jobs.")

STATES = (
    "Only this state: blocked, queued, starting, running, cancelling, succeeded, failed or "
    "cancelled; may be repeated."
)
KINDS = (
    "Only this kind: train, harvest, ingest, evaluate, import_model, export_model, collect, "
    "generate or annotate; may be repeated."
)

JobId = Annotated[str, typer.Argument(help="Id of the job.")]


@app.command()
def ls(
    state: Annotated[list[str] | None, typer.Option(help=STATES)] = None,
    kind: Annotated[list[str] | None, typer.Option(help=KINDS)] = None,
    label: Label = None,
    owner: Annotated[str, typer.Option(help="Only this owner.")] = "",
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        found = list(
            client.jobs.list(
                states=state or (), kinds=kind or (), owner=owner, labels=labels(label)
            )
        )
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "state", "job", "progress", "created"),
        (
            (job.id, state_text(job), described(job), progress(job), ago(job.created))
            for job in found
        ),
    )


@app.command()
def show(
    job: JobId,
    every_field: Annotated[
        bool, typer.Option("--all", help="Name the fields too that have their default.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one job: the fields that were given, fitted or changed, and what became of it."""
    with connect() as client:
        show_job(client.jobs.get(job), as_json, every_field=every_field)


@app.command()
def watch(job: JobId, as_json: Json = False) -> None:
    """Follow a job to its end; exits 1 when it does not succeed."""
    with connect() as client:
        follow(client, job, as_json)


@app.command()
def cancel(job: JobId, as_json: Json = False) -> None:
    """Ask a job to stop."""
    with connect() as client:
        seen = client.jobs.cancel(job)
    if as_json:
        print_json(seen)
    else:
        console.print(f"{seen.id} {seen.state}", highlight=False)


@app.command()
def rm(
    jobs: Annotated[list[str], typer.Argument(help="Ids of jobs that have ended.")],
    as_json: Json = False,
) -> None:
    """Delete jobs that have ended: records, events, logs, checkpoints. What they made stays."""
    with connect() as client:
        for job in jobs:
            client.jobs.delete(job)
            told(f"{job} is gone", {"deleted": job}, as_json)
