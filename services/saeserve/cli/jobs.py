"""`saeserve jobs ls|show|watch|cancel`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from saeserve.cli.output import (
    Json,
    ago,
    connect,
    console,
    errors,
    metrics_text,
    print_fields,
    print_json,
    print_table,
)
from saeserve.client import Client
from saeserve.client.values import Job, JobEvent

app = typer.Typer(no_args_is_help=True, help="Look at jobs.")

JobId = Annotated[str, typer.Argument(help="Id of the job.")]
SHOWN = ("loss", "fvu", "l0", "dead", "tokens_per_second")


@app.command()
def ls(
    state: Annotated[list[str] | None, typer.Option(help="Only this state.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Only this kind.")] = None,
    owner: Annotated[str, typer.Option(help="Only this owner.")] = "",
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    with connect() as client:
        found = list(client.jobs.list(states=state or (), kinds=kind or (), owner=owner))
    if as_json:
        print_json(found)
        return
    print_table(
        ("id", "kind", "state", "step", "attempt", "created", "made"),
        (
            (job.id, job.kind, job.state, _step(job), job.attempt, ago(job.created), _made(job))
            for job in found
        ),
    )


@app.command()
def show(job: JobId, as_json: Json = False) -> None:
    """Show one job."""
    with connect() as client:
        show_job(client.jobs.get(job), as_json)


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


def show_job(job: Job, as_json: bool) -> None:
    """One job in full."""
    if as_json:
        print_json(job)
        return
    print_fields(
        [
            ("id", job.id),
            ("kind", job.kind),
            ("state", job.state),
            ("step", _step(job)),
            ("attempt", f"{job.attempt} of {job.max_attempts}"),
            ("created", ago(job.created)),
            ("waits for", ", ".join(job.waits_for)),
            ("metrics", metrics_text(job.progress.metrics)),
            ("made", _made(job)),
        ]
    )
    for output in job.outputs:
        console.print(metrics_text(output.metrics), highlight=False)
    if job.error is not None:
        errors.print(f"[red]{job.error.code}[/red]: {job.error.message}")
        errors.print(job.error.remedy)


def follow(client: Client, job: str, as_json: bool) -> None:
    """Show events as they come. Raises typer.Exit(1) unless the job succeeds."""
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
        console=errors,
        disable=as_json,
    ) as bars:
        bar = bars.add_task(job, total=None, figures="")
        last = _follow(client, job, bars, bar, as_json)
    show_job(last, as_json)
    if last.state != "SUCCEEDED":
        raise typer.Exit(1)


def _follow(client: Client, job: str, bars: Progress, bar: TaskID, as_json: bool) -> Job:
    last: Job | None = None
    for update in client.jobs.watch(job):
        if isinstance(update, Job):
            last = update
            bars.update(bar, total=update.progress.total_steps or None)
        elif as_json:
            print_json(update)
        else:
            _show_event(update, bars, bar)
    return last if last is not None and last.done else client.jobs.get(job)


def _show_event(event: JobEvent, bars: Progress, bar: TaskID) -> None:
    if event.type == "metrics_reported":
        metrics = event.data.get("metrics", {})
        total = metrics.get("total_steps")
        figures = {name: metrics[name] for name in SHOWN if name in metrics}
        bars.update(bar, completed=event.step, figures=metrics_text(figures))
        if total:
            bars.update(bar, total=total)
    elif event.type == "state_changed":
        bars.console.print(f"{event.data['state']} {event.data.get('reason', '')}".rstrip())
    elif event.type == "attempt_started":
        bars.console.print(f"attempt {event.attempt} from step {event.step}")
    elif event.type == "warning_raised":
        bars.console.print(f"[yellow]{event.data.get('code')}[/yellow] {event.data.get('message')}")
    elif event.type == "log_written":
        bars.console.print(event.data.get("message", ""))


def _step(job: Job) -> str:
    if not job.progress.total_steps:
        return ""
    return f"{job.progress.step:,}/{job.progress.total_steps:,} {job.progress.unit}"


def _made(job: Job) -> str:
    made = (output.model or output.dataset or output.exported for output in job.outputs)
    return ", ".join(name or "evaluation" for name in made)
